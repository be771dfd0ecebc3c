"""A seeded chaos monkey: disturbs runs of `stillhouse` at random times, and compares their results.

    python -m tests.chaos.monkey --runs 10 --disturbances 50
    python -m tests.chaos.monkey --runs 3 --disturbances 15 --nodes 3

Each run is restarted by the same command whenever its driver was killed, until it is complete. Then its soft targets
and its student must be byte for byte equal to those of an undisturbed run. No process may be left. The seed determines
targets and actions, but not their exact times, and so not the state of the run at each disturbance.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import commands
from tests.chaos.nodes import Nodes
from tests.commands import processes
from tests.makers import write_config

DEADLINE_S = 600.0
TARGETS = {
    "teacher": (b"ray::TeacherActor", 4),
    "student worker": (b"ray::RayTrainWorker", 4),
    "member's training": (b"ray::train member", 2),
    "Ray Train's controller": (b"ray::TrainController", 1),
    "queue": (b"ray::_QueueActor", 1),
    "prediction": (b"ray::predicting", 1),
    "driver": (b"orchestrator.cli", 2),
}
"""Part of the command line of each kind of process, and its weight in the draw of the next target."""
PATIENCE_S = 30.0
"""Waiting time for the next target to exist, before another one is drawn."""
NODE_SHARE = 0.4
"""On a cluster of several nodes, the probability that the target is a node."""
ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass
class Monkey:
    """Draws targets and actions, and counts disturbances."""

    seed: int
    wanted: int
    say: Callable[[str], None] = print
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.drawn = random.Random(self.seed)
        self._choose()

    def _choose(self) -> None:
        (self.target,) = self.drawn.choices(list(TARGETS), [weight for _, weight in TARGETS.values()])
        self.chosen_s = time.monotonic()

    def disturb(self, mark: str, driver: int, nodes: Nodes | None) -> bool:
        """Disturb the next target, a process or a node, if it exists. Returns whether the driver was killed."""
        target = self.target
        there = [driver] if target == "driver" else processes(mark, TARGETS[target][0])
        if not there:
            if time.monotonic() - self.chosen_s > PATIENCE_S:
                self._choose()
            return False
        self._choose()
        action = self.drawn.choice(list(ACTIONS))
        if nodes is not None and self.drawn.random() < NODE_SHARE:
            victim = nodes.disturb(action, self.drawn)
            self.done[f"{action} raylet"] += 1
            self.say(f"  {action} raylet ({victim})")
            return False
        victim = self.drawn.choice(there)
        try:
            os.kill(victim, ACTIONS[action])
        except ProcessLookupError:
            return False
        self.done[f"{action} {target}"] += 1
        self.say(f"  {action} {target} ({victim})")
        if action == "stop":
            time.sleep(self.drawn.uniform(0.5, 4.0))
            with contextlib.suppress(ProcessLookupError):  # the run may have ended the stopped process
                os.kill(victim, signal.SIGCONT)
        return target == "driver" and action == "kill"


def run_until_complete(folder: Path, monkey: Monkey | None, nodes: Nodes | None = None) -> None:
    """Repeat the command until it succeeds. Raises: AssertionError where it fails otherwise, or leaves a process."""
    mark, began = commands.new_mark(), time.monotonic()
    of_ray, joined = (nodes.mark, {"RAY_ADDRESS": nodes.address}) if nodes else (mark, {})
    command = [*commands.STILLHOUSE, "run", str(folder / "config.yaml")]
    variables = {**commands.environment(**joined), mark: "1"}
    starts = 0
    with commands.ended(mark):
        while True:
            starts += 1
            log, killed = folder / f"output-{starts}.txt", False
            with log.open("wb") as output:
                process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
            while process.poll() is None:
                assert time.monotonic() - began < DEADLINE_S, f"not complete after {DEADLINE_S:g} s: {folder}"
                time.sleep(monkey.drawn.uniform(0.5, 5.0) if monkey else 0.2)
                if monkey and monkey.done.total() < monkey.wanted and process.poll() is None:
                    killed |= monkey.disturb(of_ray, process.pid, nodes)
            if process.returncode == 0:
                break
            shown = log.read_text()[-3000:]
            assert killed and process.returncode == -signal.SIGKILL, f"ended with {process.returncode}:\n{shown}"
        titles = [b""] if nodes is None else [title for title, _ in TARGETS.values()]  # a cluster's own remain
        until = time.monotonic() + 30
        while (left := {pid for title in titles for pid in processes(of_ray, title)}) and time.monotonic() < until:
            time.sleep(0.5)
        assert not left, f"left behind: {[Path(f'/proc/{pid}/cmdline').read_bytes() for pid in sorted(left)]}"


def outcome(folder: Path, name: str = "small") -> dict[str, str]:
    """sha256 of every part of a run's store, and of the weights of the student and of its stages, by path."""
    run = folder / "runs" / name
    weights = [*run.glob("stages/*/model.safetensors"), run / "student" / "model.safetensors"]
    files = [*run.glob("soft_targets/*/part-*.parquet"), *weights]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def prepare(folder: Path) -> Path:
    """Write a configuration with stages that last long enough to be disturbed."""
    training = {"epochs": 12, "batch_size": 16, "learning_rate": 2.0e-3}
    write_config(
        folder,
        ensemble__training=training,
        student__training=training,
        distillation__keep="members",
        student__stages=[{"name": "logits", "objective": [{"term": "logits_mse"}]}, {"name": "answers"}],
        ensemble__resources_per_member={"num_cpus": 1},
        data={
            "kind": "npz",
            "train": "train.npz",
            "validation": "valid.npz",
            "test": "test.npz",
            "augment": {"factory": "models:slowly", "views": 12},
        },
    )
    with (folder / "models.py").open("a") as file:
        file.write(
            "\n\ndef slowly(x, draws):\n    import time\n    time.sleep(0.02)\n    return x + 0.1 * draws.normal()\n"
        )
    return folder


def play(
    seed: int, runs: int, disturbances: int, scratch: Path, say: Callable[[str], None] = print, nodes: int = 0
) -> Counter[str]:
    """Spread the disturbances over at least `runs` runs. Returns the number of each.

    nodes: number of nodes in each run's cluster; 0: each run starts its own Ray. The results must be the same.
    """
    run_until_complete(prepare(scratch / "undisturbed"), None)
    expected = outcome(scratch / "undisturbed")
    done: Counter[str] = Counter()
    number = 0
    while number < runs or done.total() < disturbances:
        left = disturbances - done.total()
        monkey = Monkey(seed + number, max(1, -(-left // max(runs - number, 1))), say)
        say(f"run {number}: up to {monkey.wanted} disturbances")
        folder = prepare(scratch / f"run-{number}")
        with Nodes(nodes) if nodes else contextlib.nullcontext() as cluster:
            run_until_complete(folder, monkey, cluster)
        found = outcome(folder)
        assert found == expected, (
            f"run {number} of seed {seed} differs: {sorted(set(found.items()) ^ set(expected.items()))}"
        )
        done += monkey.done
        number += 1
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=10, help="at least")
    parser.add_argument("--disturbances", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=0, help="run on a cluster of so many (default: started in place)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillhouse-monkey-") as scratch:
        done = play(asked.seed, asked.runs, asked.disturbances, Path(scratch), nodes=asked.nodes)
    print(f"\n{done.total()} disturbances, every run byte for byte as undisturbed:")
    for what, times in sorted(done.items()):
        print(f"  {times:3d}  {what}")


if __name__ == "__main__":
    main()
