"""What distillation costs a 2x128 student, and what Stillhouse costs it: examples/s on speech frames, batches of 256.

Stillhouse: `examples` over `seconds` of the epoch events of one run, the student's (cached soft targets, soft and hard
term) and its hard-label baseline's (no soft targets); the quickest without each one's first epoch, which may stream.
Bare loop: a permuted tensor indexed by batch, forward, loss, backward, fused Adam; without and with soft targets in
RAM; its quickest epoch too. The quickest, since whatever else a machine does only ever adds.

An epoch event of Stillhouse includes its validation, which is of 256 frames here so that it does not matter.
Left out: what lies between epochs, checkpoints and reports (`end_to_end` has it in). Two members are enough, since the
student only sees their mean. Ratios are medians over turns of the two.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks import common, loops
from benchmarks.common import Row, Run
from benchmarks.loops import HARD, Loss

MARK_DISTILLATION = 0.97
MARK_BARE = 0.95
BATCH_SIZE = 256
LOSS = Loss()
WITH, WITHOUT, BARE_WITH, BARE_WITHOUT = (
    f"{who} {how}" for who in ("stillhouse", "bare loop") for how in ("with", "without")
)


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


def ratio(rows: list[Row], above: str, below: str) -> float:
    """The median over turns."""
    return median(row[above] / row[below] for row in rows)


if __name__ == "__main__":
    main()
