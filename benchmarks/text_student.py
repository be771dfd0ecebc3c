"""The cost of cached soft targets for a student of texts: examples/s of a BERT of 2 x 128, in batches of 32.

Four loops train the student in turns of one epoch, in one process, so that a busy machine slows all of them:

- with, without: Stillhouse's own loop (`workers.training.loop`) with cached soft targets, soft and hard term, and
  without soft targets.
- bare with, bare without: tokens in memory, padded by batches that are grouped by length; forward, loss, backward,
  fused Adam, soft targets in RAM.

An epoch of Stillhouse includes its validation, which is negligible for so few texts. Ratios are medians over turns; the
first turn is dropped. `student_with_distillation` measures what a worker of Ray adds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from benchmarks import common, store, texts
from benchmarks.loops import HARD
from workers.data.dataset import Split
from workers.data.examples import Columns
from workers.data.ragged import Ragged
from workers.data.tokens import IDS
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.targets.reader import StoreReader
from workers.training import loop as train_loop
from workers.training.loader import HardLabels, SoftLabels

MARK = 0.97
BATCH_SIZE = 32
WITH, WITHOUT, BARE_WITH, BARE_WITHOUT = "with", "without", "bare with", "bare without"


def main() -> None:
    options = common.arguments(__doc__, texts=2000, turns=8).parse_args()
    torch.set_num_threads(options.threads)
    started = common.machine()
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        folder = texts.write(Path(scratch), options.texts, others=32)
        x, validation = texts.read(folder, "train"), texts.read(folder, "validation")
        soft = texts.teacher_pass([texts.made(1, **texts.STUDENT).eval()], x, texts.LOSS.temperature, 64)
        kept = str(folder / "store")
        parts = store.write(kept, soft, micro_batch=64)
        tasks = {
            WITH: train_loop.Task(
                SoftLabels(
                    split(x), store.layout(*soft.shape), parts.__getitem__, StoreReader(kept, texts.LOSS.temperature)
                ),
                split(validation),
                DistillationSpec.model_validate(vars(texts.LOSS)),
            ),
            WITHOUT: train_loop.Task(HardLabels(split(x)), split(validation)),
        }
        loops = {
            WITH: stillhouse(tasks[WITH], options.turns),
            BARE_WITH: bare(x, soft, options.turns),
            WITHOUT: stillhouse(tasks[WITHOUT], options.turns),
            BARE_WITHOUT: bare(x, None, options.turns),
        }
        rows: list[common.Row] = []
        for turn in range(options.turns + 1):
            rows.append({"turn": turn, **{name: len(x) / next(loop) for name, loop in loops.items()}})
            common.progress(common.table(rows[-1:]))
    rows = rows[1:]
    pairs = ((WITH, WITHOUT), (WITH, BARE_WITH), (WITHOUT, BARE_WITHOUT), (BARE_WITH, BARE_WITHOUT))
    common.publish(
        "text_student",
        options.results,
        started,
        rows,
        unit="examples/s",
        texts=len(x),
        batch_size=BATCH_SIZE,
        loss=vars(texts.LOSS),
        threads=options.threads,
        ratios={f"{above} / {below}": round(ratio(rows, above, below), 4) for above, below in pairs},
        marks={
            f"{above} over {below}": common.mark(ratio(rows, above, below), MARK)
            for above, below in pairs
            if above in (WITH, WITHOUT)
        },
    )


def split(x: texts.Tokens) -> Split:
    """Texts as the loop takes them: a ragged column of tokens."""
    return Split(Columns({IDS: Ragged.of([row.numpy().astype("int32") for row in x.ids])}), x.labels.numpy())


def stillhouse(task: train_loop.Task, turns: int) -> Iterator[float]:
    """Train by Stillhouse's loop; yields the seconds of each epoch."""
    spec = TrainingSpec(epochs=turns + 1, batch_size=BATCH_SIZE, learning_rate=texts.LEARNING_RATE, optimizer="adam")
    progress = train_loop.begin(texts.made(0, **texts.STUDENT), spec, len(task.train))
    for epoch in train_loop.epochs(progress, task, spec, seed=0):
        yield epoch.seconds


def bare(x: texts.Tokens, soft: torch.Tensor | None, turns: int) -> Iterator[float]:
    """Train by the bare loop; yields the seconds of each epoch. soft: soft targets [N, K] in RAM; None: labels only."""
    model, loss = texts.made(0, **texts.STUDENT), HARD if soft is None else texts.LOSS
    teach: texts.Teach | None = None if soft is None else lambda rows, _: soft[torch.from_numpy(rows)]
    yield from texts.train(model, x, loss, teach, epochs=turns + 1, batch_size=BATCH_SIZE)


def ratio(rows: list[common.Row], above: str, below: str) -> float:
    """The median ratio of two loops over the turns."""
    return float(median(row[above] / row[below] for row in rows))


if __name__ == "__main__":
    main()
