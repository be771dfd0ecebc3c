"""What distillation costs a student, and what Stillhouse costs it: examples/s on speech frames, batches of 256.

Two students: 2x128, whose step takes little more than a millisecond, and 2x512, whose step takes more than five.

- stillhouse: `examples` over `seconds` of the epoch events of one run, the student's (cached soft targets, soft and
  hard term) and its hard-label baseline's (no soft targets); the quickest epoch after the first, which may stream.
- bare loop: a permuted tensor indexed by batch, forward, loss, backward, fused Adam; with soft targets in RAM and
  without; its quickest epoch too. The quickest, since other work on the machine only ever adds time.
- bare in Ray: the bare loop without soft targets, in a worker of Ray Train as Stillhouse starts Ray.

An epoch event of Stillhouse includes its validation, which is of 256 frames here so that it does not matter. Left out:
checkpoints and reports between epochs (`end_to_end` includes them). Two members are enough, since the student only
sees their mean. Ratios are medians over turns.

Marks: Stillhouse over the bare loop with the same loss, with and without soft targets; and with over without soft
targets for the larger student. For the small one the loss itself is a large part of a step: a bare loop with soft and
hard loss reaches 0.92 to 0.94 of one with hard labels alone, also with the loss and its gradient fused.
"""

from __future__ import annotations

import logging
import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from orchestrator import environment

environment.prepare()  # before Ray is imported

import ray.train  # noqa: E402
from ray.train.torch import TorchTrainer  # noqa: E402

from benchmarks import common, loops  # noqa: E402
from benchmarks.common import Row, Run  # noqa: E402
from benchmarks.loops import HARD, Loss  # noqa: E402
from benchmarks.models import mlp  # noqa: E402

MARK = 0.97
BATCH_SIZE = 256
LOSS = Loss()
STUDENTS: dict[str, dict[str, int]] = {"2x128": loops.STUDENT, "2x512": {"hidden": 512, "layers": 2}}
LARGER = "2x512"
WITH, WITHOUT, BARE_WITH, BARE_WITHOUT = "with", "without", "bare with", "bare without"
IN_RAY = "bare in Ray"


def main() -> None:
    parser = common.arguments(__doc__, epochs=5, repeats=3)
    parser.add_argument("--students", nargs="+", choices=list(STUDENTS), default=list(STUDENTS))
    options = parser.parse_args()
    if options.epochs < 2:
        raise SystemExit(f"--epochs is {options.epochs}; expected at least 2, since the first is dropped")
    torch.set_num_threads(options.threads)
    started = common.machine()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        data = common.write_speech(Path(scratch), options.examples)
        weights = common.write_untrained_members(Path(scratch), 2)
        x, y = common.read_speech(data, "train")
        soft = loops.soft_target_pass(loops.load_members(weights), x, LOSS.temperature)
        for turn in range(1, options.repeats + 1):
            for student in options.students:
                rows.append(measure(turn, student, data, weights, (x, y, soft), options))
                common.progress(common.table(rows[-1:]))
    common.publish(
        "student_with_distillation",
        options.results,
        started,
        rows,
        unit="examples/s",
        examples=len(x),
        epochs=options.epochs,
        batch_size=BATCH_SIZE,
        loss=vars(LOSS),
        threads=options.threads,
        ratios={student: ratios(rows, student) for student in options.students},
        marks=marks(rows, options.students),
    )


def measure(
    turn: int, student: str, data: Path, weights: list[Path], tensors: tuple[Tensor, Tensor, Tensor], options: Namespace
) -> Row:
    """One turn of one student: a run of Stillhouse, then the bare loops. tensors: x, y and soft targets."""
    x, y, soft = tensors
    config = common.configuration(data, weights, LOSS, epochs=options.epochs, batch_size=BATCH_SIZE)
    config["student"]["model"]["kwargs"] = STUDENTS[student]
    run = common.stillhouse(config)
    return {
        "turn": turn,
        "student": student,
        WITH: rate(run, "student"),
        WITHOUT: rate(run, "baseline"),
        BARE_WITH: bare_rate(student, x, y, soft, options.epochs),
        BARE_WITHOUT: bare_rate(student, x, y, None, options.epochs),
        IN_RAY: rate_in_ray(student, data, options.epochs, options.threads),
    }


def ratios(rows: list[Row], student: str) -> dict[str, float]:
    """What is divided by what, of one student."""
    pairs = ((WITH, WITHOUT), (WITH, BARE_WITH), (WITHOUT, BARE_WITHOUT), (BARE_WITH, BARE_WITHOUT),
             (IN_RAY, BARE_WITHOUT), (WITHOUT, IN_RAY))  # fmt: skip
    return {f"{above} / {below}": round(ratio(rows, student, above, below), 4) for above, below in pairs}


def marks(rows: list[Row], students: list[str]) -> dict[str, Row]:
    """The ratios that are to reach `MARK`."""
    found = {}
    for student in students:
        for above, below in ((WITH, BARE_WITH), (WITHOUT, BARE_WITHOUT)):
            found[f"{student}, {above} over {below}"] = common.mark(ratio(rows, student, above, below), MARK)
    if LARGER in students:
        found[f"{LARGER}, {WITH} over {WITHOUT}"] = common.mark(ratio(rows, LARGER, WITH, WITHOUT), MARK)
    return found


def rate(run: Run, system: str) -> float:
    """Examples/s of the quickest epoch after the first."""
    return max(float(epoch["examples"]) / float(epoch["seconds"]) for epoch in run.epochs(system)[1:])


def bare_rate(student: str, x: Tensor, y: Tensor, soft: Tensor | None, epochs: int) -> float:
    """The same of the bare loop, with soft targets [N, K] in RAM or without."""
    torch.manual_seed(0)
    seconds = loops.train(
        mlp(**STUDENTS[student]),
        x,
        y,
        HARD if soft is None else LOSS,
        None if soft is None else lambda rows, _: soft[rows],
        epochs=epochs,
        batch_size=BATCH_SIZE,
    )
    return len(x) / min(seconds[1:])


def rate_in_ray(student: str, data: Path, epochs: int, threads: int) -> float:
    """The same without soft targets, in a worker that Ray Train starts."""
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        found = Path(scratch) / "rate"

        def work(_: dict[str, Any]) -> None:
            torch.set_num_threads(threads)
            found.write_text(str(bare_rate(student, *common.read_speech(data, "train"), None, epochs)))

        with ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR):
            TorchTrainer(
                work,
                train_loop_config={},
                scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.01}),
                run_config=ray.train.RunConfig(storage_path=str(Path(scratch) / "ray")),
            ).fit()
        return float(found.read_text())


def ratio(rows: list[Row], student: str, above: str, below: str) -> float:
    """The median over the turns of one student."""
    return float(median(row[above] / row[below] for row in rows if row["student"] == student))


if __name__ == "__main__":
    main()
