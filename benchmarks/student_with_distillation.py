"""What distillation costs a 2x128 student, and what Stillhouse costs it: examples/s on speech frames, batches of 256.

Stillhouse: `examples` over `seconds` of the epoch events of one run, the student's (cached soft targets, soft and hard
term) and its hard-label baseline's (no soft targets); the quickest without each one's first epoch, which may stream.
Bare loop: a permuted tensor indexed by batch, forward, loss, backward, fused Adam; without and with soft targets in
RAM; its quickest epoch too. The quickest, since whatever else a machine does only ever adds. And the same bare loop,
without soft targets, in a worker of Ray Train: what Ray's own processes take of the cores, whatever is trained there.

An epoch event of Stillhouse includes its validation, which is of 256 frames here so that it does not matter.
Left out: what lies between epochs, checkpoints and reports (`end_to_end` has it in). Two members are enough, since the
student only sees their mean. Ratios are medians over turns of the two.
"""

from __future__ import annotations

import tempfile
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

MARK_DISTILLATION = 0.97
MARK_BARE = 0.95
BATCH_SIZE = 256
LOSS = Loss()
WITH, WITHOUT, BARE_WITH, BARE_WITHOUT = (
    f"{who} {how}" for who in ("stillhouse", "bare loop") for how in ("with", "without")
)
IN_RAY = "bare loop in Ray Train"


def main() -> None:
    options = common.arguments(__doc__, epochs=8, repeats=3).parse_args()
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
        config = common.configuration(data, weights, LOSS, epochs=options.epochs, batch_size=BATCH_SIZE)
        for turn in range(1, options.repeats + 1):
            run = common.stillhouse(config)
            rows.append(
                {
                    "turn": turn,
                    WITH: rate(run, "student"),
                    WITHOUT: rate(run, "baseline"),
                    BARE_WITH: bare_rate(x, y, soft, options.epochs),
                    BARE_WITHOUT: bare_rate(x, y, None, options.epochs),
                    IN_RAY: rate_in_ray(data, Path(scratch), options.epochs, options.threads),
                }
            )
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
        bare_loop_with_over_without=round(ratio(rows, BARE_WITH, BARE_WITHOUT), 4),
        bare_loop_in_ray_train_over_outside=round(ratio(rows, IN_RAY, BARE_WITHOUT), 4),
        without_over_bare_loop_in_ray_train=round(ratio(rows, WITHOUT, IN_RAY), 4),
        marks={
            "with distillation over without": common.mark(ratio(rows, WITH, WITHOUT), MARK_DISTILLATION),
            "without distillation, over bare loop": common.mark(ratio(rows, WITHOUT, BARE_WITHOUT), MARK_BARE),
        },
    )


def rate(run: Run, system: str) -> float:
    """Examples/s of the quickest epoch after the first."""
    return max(epoch["examples"] / epoch["seconds"] for epoch in run.epochs(system)[1:])


def bare_rate(x: Tensor, y: Tensor, soft: Tensor | None, epochs: int) -> float:
    """The same of the bare loop, with soft targets [N, K] in RAM or without."""
    torch.manual_seed(0)
    seconds = loops.train(
        loops.mlp(**loops.STUDENT),
        x,
        y,
        HARD if soft is None else LOSS,
        None if soft is None else lambda rows, _: soft[rows],
        epochs=epochs,
        batch_size=BATCH_SIZE,
    )
    return len(x) / min(seconds[1:])


def rate_in_ray(data: Path, scratch: Path, epochs: int, threads: int) -> float:
    """The same without soft targets, in a worker that Ray Train starts."""
    found = scratch / "rate"

    def work(_: dict[str, Any]) -> None:
        torch.set_num_threads(threads)
        found.write_text(str(bare_rate(*common.read_speech(data, "train"), None, epochs)))

    with ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR"):
        TorchTrainer(
            work,
            train_loop_config={},
            scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.01}),
            run_config=ray.train.RunConfig(storage_path=str(scratch / "ray")),
        ).fit()
    return float(found.read_text())


def ratio(rows: list[Row], above: str, below: str) -> float:
    """The median over turns."""
    return median(row[above] / row[below] for row in rows)


if __name__ == "__main__":
    main()
