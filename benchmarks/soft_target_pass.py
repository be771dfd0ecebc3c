"""The soft-target pass of Stillhouse over a bare torch loop: 10 members of 4x512 on the speech frames.

Stillhouse: `soft_targets.seconds` of `report.json`, from the teachers' readiness to the complete store.
Bare loop: the same members in one process with one thread per core, batches of 1,024, the mean in fp32, and the result
in RAM only; after a warm-up.

Both exclude start-up, reading data and loading weights. The ratio is bare seconds over Stillhouse's, as the median over
alternating turns, so that a busy machine slows both. Weights are random, which does not change the cost.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import common, loops
from benchmarks.loops import Loss

MARK = 0.95
LOSS = Loss(temperature=2.0, soft_weight=1.0, hard_weight=0.0)


def main() -> None:
    options = common.arguments(__doc__, members=10, repeats=5).parse_args()
    torch.set_num_threads(options.threads)
    started = common.machine()
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        data = common.write_speech(Path(scratch), options.examples)
        weights = common.write_untrained_members(Path(scratch), options.members)
        x, _ = common.read_speech(data, "train")
        members = loops.load_members(weights)
        config = common.configuration(data, weights, LOSS, epochs=1, batch_size=1024)
        rows = in_turns(config, lambda: bare_seconds(members, x), options.repeats)
    ratio = median(row["ratio"] for row in rows)
    common.publish(
        "soft_target_pass",
        options.results,
        started,
        rows,
        examples=len(x),
        members=options.members,
        threads=options.threads,
        examples_per_second=round(len(x) / median(row["stillhouse s"] for row in rows)),
        marks={"stillhouse over bare loop": common.mark(ratio, MARK)},
    )


def in_turns(config: dict[str, Any], bare: Callable[[], float], repeats: int) -> list[common.Row]:
    """The pass of a run beside a bare loop, in turns. bare: runs the loop and returns its seconds."""
    rows: list[common.Row] = []
    for turn in range(1, repeats + 1):
        ours = common.stillhouse(config).report["soft_targets"]["seconds"]
        theirs = bare()
        rows.append({"turn": turn, "stillhouse s": ours, "bare loop s": theirs, "ratio": theirs / ours})
        common.progress(common.table(rows[-1:]))
    return rows


def bare_seconds(members: list[torch.nn.Module], x: torch.Tensor) -> float:
    """One pass by the bare loop, after a warm-up."""
    loops.soft_target_pass(members, x[:1024], LOSS.temperature)
    started = time.perf_counter()
    loops.soft_target_pass(members, x, LOSS.temperature)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
