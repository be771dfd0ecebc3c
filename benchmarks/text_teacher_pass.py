"""The soft-target pass of Stillhouse over a bare loop of transformers: BERTs of 4 x 256 on texts of 7 to 62 tokens.

Stillhouse: `soft_targets.seconds` of `report.json`, from the teachers' readiness to the complete store.
Bare loop: the same networks in one process with `--threads` threads. All texts are sorted by length and cut into
batches of 64, each padded to its longest; the mean in fp32, and the result in RAM only; after a warm-up.

Stillhouse takes as many teacher actors as the bare loop has threads, of one thread each. With `--threads 1` both have
one core: on a busy machine that is the better measurement, since two threads wait for one another after each product.

Both exclude start-up, reading and tokenizing the texts, and loading weights. The ratio is bare seconds over
Stillhouse's, as the median over alternating turns, so that a busy machine slows both. Weights are random, which does
not change the cost.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import common, texts
from benchmarks.soft_target_pass import in_turns

MARK = 0.95
BATCH_SIZE = 64
"""Of the bare loop: of 16 to 512, the fastest on a CPU."""


def main() -> None:
    options = common.arguments(__doc__, texts=8000, members=2, repeats=3).parse_args()
    torch.set_num_threads(options.threads)
    started = common.machine()
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        data = texts.write(Path(scratch), options.texts)
        paths = texts.write_teachers(Path(scratch), options.members)
        x, teachers = texts.read(data, "train"), [texts.load(path) for path in paths]
        config = texts.configuration(data, paths, texts.SMALLEST, epochs=1, batch_size=256)
        config["ensemble"]["num_actors"] = min(options.threads, options.members)
        config["distillation"]["stream"] = False  # the bare loop trains no student either
        rows = in_turns(config, lambda: bare_seconds(teachers, x), options.repeats)
    tokens = int(x.lengths.sum())
    common.publish(
        "text_teacher_pass",
        options.results,
        started,
        rows,
        texts=len(x),
        tokens=tokens,
        members=options.members,
        threads=options.threads,
        tokens_per_second=round(tokens * options.members / median(row["stillhouse s"] for row in rows)),
        marks={"stillhouse over bare loop": common.mark(median(row["ratio"] for row in rows), MARK)},
    )


def bare_seconds(teachers: list[torch.nn.Module], x: texts.Tokens) -> float:
    """One pass by the bare loop, after a warm-up."""
    texts.mean_of_teachers(teachers, x.padded(np.arange(min(len(x), BATCH_SIZE))), texts.LOSS.temperature)
    started = time.perf_counter()
    texts.teacher_pass(teachers, x, texts.LOSS.temperature, BATCH_SIZE)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
