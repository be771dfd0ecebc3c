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

import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks import common, end_to_end, texts
from benchmarks.common import Row, Run
from benchmarks.end_to_end import BESIDES, contender, row, seconds_of
from benchmarks.text_contenders import BATCH_SIZE, CONTENDERS

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
        for turn in range(1, asked.repeats + 1):
            first = ours(data, teachers, asked.epochs)
            for name in (None, *asked.only):
                module = "benchmarks.text_contenders"
                found = contender(name, data, teachers, asked.epochs, asked.threads, module) if name else first
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


def ours(data: Path, teachers: list[Path], epochs: int) -> Row:
    """The times of `stillhouse run`, from its events."""
    run = common.stillhouse(texts.configuration(data, teachers, texts.STUDENT, epochs=epochs, batch_size=BATCH_SIZE))
    total, work = seconds_of(run.events[-1]) - run.launched, work_s(run)
    besides = sum(e["seconds"] for e in run.events if e["event"] == "stage finished" and e["stage"] in BESIDES)
    student = next(s for s in run.report["systems"] if s["role"] == "student")
    return row("stillhouse", work, total - work - besides, student["test"]["accuracy"], besides)


def work_s(run: Run) -> float:
    """Seconds in which the pass or the student's epochs were under way; both count once where they overlap."""
    finished = [e for e in run.events if e["event"] == "stage finished" and e["stage"] == "soft targets"]
    of_pass, end_of_pass = run.report["soft_targets"]["seconds"], seconds_of(finished[0])
    of_student, end = end_to_end.student_s(run), seconds_of(run.epochs("student")[-1])
    together = min(end_of_pass, end) - max(end_of_pass - of_pass, end - of_student)
    return float(of_pass + of_student - max(0.0, together))


if __name__ == "__main__":
    main()
