"""A whole distillation of texts against alternatives: a BERT of 4 x 256 into one of 2 x 128, 3 epochs, one teacher.

Every contender gets the same teacher, texts, loss (T = 2, soft 0.9, hard 0.1) and number of epochs; see
`benchmarks.text_contenders` for each. Weights are random, which does not change the cost.

- work s: seconds in which the teacher or the student works, from the teacher's first batch to the student's last step.
  For Stillhouse this is the pass, writing and reading the store, and the student's epochs with their checkpoints and
  reports; while the teacher holds one of two cores, the student trains on the other.
- start s, besides s: as in `end_to_end`.
- ratio: the contender's work over Stillhouse's, as the median over turns.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks import common, texts
from benchmarks.common import Row
from benchmarks.end_to_end import contender, ours
from benchmarks.text_contenders import BATCH_SIZE, CONTENDERS

MODULE = "benchmarks.text_contenders"
MARKS = dict.fromkeys(("textbrewer", "textbrewer, grouped", "trainer", "sentence-transformers", "bare loop"), 1.0)


def main() -> None:
    parser = common.arguments(__doc__, texts=2000, epochs=3, repeats=1)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    started = common.machine()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        data = texts.write(Path(scratch), asked.texts)
        teachers = texts.write_teachers(data, 1)
        config = texts.configuration(data, teachers, texts.STUDENT, epochs=asked.epochs, batch_size=BATCH_SIZE)
        for turn in range(1, asked.repeats + 1):
            first = ours(config)
            others = (contender(name, data, teachers, asked.epochs, asked.threads, MODULE) for name in asked.only)
            for found in itertools.chain([first], others):
                rows.append({"turn": turn, **found, "ratio": found["work s"] / first["work s"]})
                common.progress(common.table(rows[-1:]))
    ratios = {name: median(each["ratio"] for each in rows if each["who"] == name) for name in asked.only}
    common.publish(
        "text_end_to_end",
        asked.results,
        started,
        rows,
        texts=asked.texts,
        epochs=asked.epochs,
        batch_size=BATCH_SIZE,
        loss=vars(texts.LOSS),
        threads=asked.threads,
        ratios=ratios,
        marks={name: common.mark(ratio, MARKS[name]) for name, ratio in ratios.items() if name in MARKS},
    )


if __name__ == "__main__":
    main()
