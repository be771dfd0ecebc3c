"""The cost of distillation, of Stillhouse and of Ray for a student: examples/s on speech frames, in batches of 256.

The students are 2x128, with a step of about a millisecond, and 2x512, with a step of more than five. Five loops train
each student in turns of one epoch, so that a slow or busy machine slows all of them:

- with, without: Stillhouse's own loop (`workers.training.loop`) with cached soft targets, soft and hard term, and
  without soft targets; in a worker of Ray Train, with Ray as Stillhouse starts it.
- bare with, bare without: a permuted tensor indexed by batch, forward, loss, backward, fused Adam, soft targets in RAM;
  in the same worker.
- outside: the bare loop without soft targets in another process, which Ray did not start.

An epoch of Stillhouse includes its validation, which is negligible for 256 frames. Checkpoints and reports between
epochs are excluded (`end_to_end` includes them). Ratios are medians over turns; the first turn is dropped.

Three ratios have targets: Stillhouse over the bare loop with the same loss, the bare loop in Ray over the one outside,
and for the larger student `with` over `without`. For the small student the loss itself is a large part of a step: a
bare loop with soft and hard loss reaches 0.84 to 0.94 of one with hard labels alone, even with loss and gradient fused.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from orchestrator.cluster import environment

environment.prepare()  # before Ray is imported

import ray.train  # noqa: E402
from ray.train.torch import TorchTrainer  # noqa: E402

from benchmarks import common, loops, store  # noqa: E402
from benchmarks.common import Row  # noqa: E402
from benchmarks.loops import HARD, Loss  # noqa: E402
from benchmarks.models import mlp  # noqa: E402
from workers.data.dataset import Split  # noqa: E402
from workers.specs.objective import DistillationSpec  # noqa: E402
from workers.specs.training import TrainingSpec  # noqa: E402
from workers.targets.reader import StoreReader  # noqa: E402
from workers.targets.soft_targets import Part  # noqa: E402
from workers.training import loop as train_loop  # noqa: E402
from workers.training.loader import HardLabels, SoftLabels  # noqa: E402

MARK = 0.97
BATCH_SIZE = 256
LOSS = Loss()
STUDENTS: dict[str, dict[str, int]] = {"2x128": loops.STUDENT, "2x512": {"hidden": 512, "layers": 2}}
LARGER = "2x512"
WITH, WITHOUT, BARE_WITH, BARE_WITHOUT, OUTSIDE = "with", "without", "bare with", "bare without", "outside"
POLL_S, TIMEOUT_S = 0.005, 600.0


def main() -> None:
    parser = common.arguments(__doc__, turns=8)
    parser.add_argument("--students", nargs="+", choices=list(STUDENTS), default=list(STUDENTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = common.machine()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        folder = Path(scratch)
        common.write_speech(folder, options.examples)
        parts = write_soft_targets(folder)
        with ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR):
            for student in options.students:
                rows += measure(student, folder, parts, options.turns, options.threads)
                common.progress(common.table([row for row in rows if row["student"] == student]))
        examples = sum(part.rows for part in parts)
    common.publish(
        "student_with_distillation",
        options.results,
        started,
        rows,
        unit="examples/s",
        examples=examples,
        batch_size=BATCH_SIZE,
        loss=vars(LOSS),
        threads=options.threads,
        ratios={student: ratios(rows, student) for student in options.students},
        marks=marks(rows, options.students),
    )


def write_soft_targets(folder: Path) -> list[Part]:
    """Write a store with the mean of two untrained members, which cost as much as trained ones."""
    x, _ = common.read_speech(folder, "train")
    members = loops.load_members(common.write_untrained_members(folder, 2))
    soft = loops.soft_target_pass(members, x, LOSS.temperature)
    return store.write(str(folder / "store"), soft, micro_batch=BATCH_SIZE)


def measure(student: str, folder: Path, parts: list[Part], turns: int, threads: int) -> list[Row]:
    """Measure one student: in each turn an epoch of each loop, those in Ray first. Returns a row per turn."""
    exchange = Path(tempfile.mkdtemp(dir=folder))

    def work(_: dict[str, Any]) -> None:
        torch.set_num_threads(threads)
        inside = loops_in_ray(student, folder, parts, turns)
        for turn in range(turns + 1):
            done = exchange / f"{turn}.partial"
            done.write_text(json.dumps({name: next(loop) for name, loop in inside.items()}))
            done.rename(exchange / f"{turn}.json")
            await_file(exchange / f"{turn}.outside")

    trainer = TorchTrainer(
        work,
        train_loop_config={},
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.01}),
        run_config=ray.train.RunConfig(storage_path=str(exchange / "ray")),
    )
    x, y = common.read_speech(folder, "train")
    outside, rows = bare(student, x, y, None), []
    training = threading.Thread(target=trainer.fit, daemon=True)
    training.start()
    for turn in range(turns + 1):
        rates = json.loads(await_file(exchange / f"{turn}.json", training).read_text())
        rates[OUTSIDE] = next(outside)
        (exchange / f"{turn}.outside").touch()
        rows.append({"turn": turn, "student": student, **{name: len(x) / s for name, s in rates.items()}})
    training.join()
    return rows[1:]


def await_file(path: Path, made_by: threading.Thread | None = None) -> Path:
    """Wait until `path` exists, and return it."""
    began = time.monotonic()
    while not path.exists():
        if time.monotonic() - began > TIMEOUT_S or (made_by is not None and not made_by.is_alive()):
            raise SystemExit(f"the loops in Ray did not write {path.name}")
        time.sleep(POLL_S)
    return path


def loops_in_ray(student: str, folder: Path, parts: list[Part], turns: int) -> dict[str, Iterator[float]]:
    """For each loop an iterator over the seconds of its epochs."""
    x, y = common.read_speech(folder, "train")
    members = loops.load_members([folder / f"member-{k}.safetensors" for k in range(2)])
    soft = loops.soft_target_pass(members, x, LOSS.temperature)
    examples, layout = Split(x.numpy(), y.numpy()), store.layout(len(y), common.CLASSES)
    validation = Split(*(tensor.numpy() for tensor in common.read_speech(folder, "validation")))
    reader = StoreReader(str(folder / "store"), LOSS.temperature)
    stored = SoftLabels(examples, layout, parts.__getitem__, reader)
    tasks = {
        WITH: train_loop.Task(stored, validation, DistillationSpec.model_validate(vars(LOSS))),
        WITHOUT: train_loop.Task(HardLabels(examples), validation),
    }
    return {
        WITH: stillhouse(student, tasks[WITH], turns),
        BARE_WITH: bare(student, x, y, soft),
        WITHOUT: stillhouse(student, tasks[WITHOUT], turns),
        BARE_WITHOUT: bare(student, x, y, None),
    }


def stillhouse(student: str, task: train_loop.Task, turns: int) -> Iterator[float]:
    spec = TrainingSpec(epochs=turns + 1, batch_size=BATCH_SIZE, learning_rate=1e-3, optimizer="adam")
    torch.manual_seed(0)
    progress = train_loop.begin(mlp(**STUDENTS[student]), spec, len(task.train))
    for epoch in train_loop.epochs(progress, task, spec, seed=0):
        yield epoch.seconds


def bare(student: str, x: Tensor, y: Tensor, soft: Tensor | None) -> Iterator[float]:
    """Train by the bare loop; yields the seconds of each epoch. soft: soft targets [N, K] in RAM; None: labels only."""
    torch.manual_seed(0)
    model, loss = mlp(**STUDENTS[student]), HARD if soft is None else LOSS
    teach = None if soft is None else lambda rows, _: soft[rows]
    while True:
        yield from loops.train(model, x, y, loss, teach, epochs=1, batch_size=BATCH_SIZE)


def ratios(rows: list[Row], student: str) -> dict[str, float]:
    """The ratios of one student, by the names of both loops."""
    pairs = ((WITH, BARE_WITH), (WITHOUT, BARE_WITHOUT), (WITH, WITHOUT), (BARE_WITH, BARE_WITHOUT),
             (BARE_WITHOUT, OUTSIDE))  # fmt: skip
    return {f"{above} / {below}": round(ratio(rows, student, above, below), 4) for above, below in pairs}


def marks(rows: list[Row], students: list[str]) -> dict[str, Row]:
    """The ratios with the target `MARK`."""
    found = {}
    for student in students:
        for above, below in ((WITH, BARE_WITH), (WITHOUT, BARE_WITHOUT)):
            found[f"{student}, {above} over {below}"] = common.mark(ratio(rows, student, above, below), MARK)
        found[f"{student}, {BARE_WITHOUT} in Ray over {OUTSIDE}"] = common.mark(
            ratio(rows, student, BARE_WITHOUT, OUTSIDE), MARK
        )
    if LARGER in students:
        found[f"{LARGER}, {WITH} over {WITHOUT}"] = common.mark(ratio(rows, LARGER, WITH, WITHOUT), MARK)
    return found


def ratio(rows: list[Row], student: str, above: str, below: str) -> float:
    """The median ratio of two loops over the turns of one student."""
    return float(median(row[above] / row[below] for row in rows if row["student"] == student))


if __name__ == "__main__":
    main()
