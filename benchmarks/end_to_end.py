"""A whole distillation against alternatives to Stillhouse: 10 members of 4x512, a student of 2x128, 10 epochs.

Data are the speech frames (89,519 of 840 numbers, 117 classes). The members are trained once, by a bare loop, and
cached in `--cache`. Every contender gets the same weights, loss and number of epochs, at T = 1 and with the mean of
logits, as in TextBrewer; see `benchmarks.contenders` for each.

- work s: from the teachers' first batch to the student's last step. For Stillhouse this is the pass, writing and
  reading the store, and the student's epochs with their checkpoints and reports.
- start s: the rest of the process: imports, reading data, and starting Ray where it is used. Work that only Stillhouse
  does has a separate column: training the baseline, evaluating all systems, the report and MLflow.
- ratio: the contender's work over Stillhouse's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import common, loops
from benchmarks.common import Row, Run
from benchmarks.contenders import BATCH_SIZE, COMBINE, CONTENDERS, LEARNING_RATE, LOSS
from benchmarks.models import mlp

MARKS = {"textbrewer": 5.0, "textbrewer, caching": 1.0, "by hand": 1.0, "by hand, caching": 1.0, "ray data": 1.0}
MEMBER_EPOCHS = 3


def main() -> None:
    parser = common.arguments(__doc__, members=10, epochs=10)
    parser.add_argument("--cache", type=Path, default=common.HERE / ".cache", help="where trained members are kept")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    started = common.machine()
    with tempfile.TemporaryDirectory(prefix="stillhouse-benchmark-") as scratch:
        data = common.write_speech(Path(scratch), asked.examples)
        members = trained_members(
            asked.cache / f"{asked.members}-members-{asked.examples or 'all'}", asked.members, data
        )
        rows = [
            ours(common.configuration(data, members, LOSS, epochs=asked.epochs, batch_size=BATCH_SIZE, combine=COMBINE))
        ]
        common.progress(common.table(rows))
        for name in asked.only:
            rows.append(contender(name, data, members, asked.epochs, asked.threads))
            common.progress(common.table(rows[-1:]))
    for row in rows:
        row["ratio"] = row["work s"] / rows[0]["work s"]
    common.publish(
        "end_to_end",
        asked.results,
        started,
        rows,
        members=asked.members,
        epochs=asked.epochs,
        batch_size=BATCH_SIZE,
        loss=vars(LOSS),
        combine=COMBINE,
        marks={r["who"]: common.mark(r["ratio"], MARKS[r["who"]]) for r in rows if r["who"] in MARKS},
    )


def trained_members(folder: Path, count: int, data: Path) -> list[Path]:
    """The teachers' weights from the cache; missing ones are trained."""
    paths = [folder / f"member-{k}.safetensors" for k in range(count)]
    missing = [k for k, path in enumerate(paths) if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        x, y = common.read_speech(data, "train")
    for k in missing:
        torch.manual_seed(k)
        member = mlp(**loops.MEMBER)
        loops.train(member, x, y, loops.HARD, epochs=MEMBER_EPOCHS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
        save_file(member.state_dict(), paths[k])
        common.progress(f"member {k + 1} of {count} trained")
    return paths


def ours(config: dict[str, Any]) -> Row:
    """The times of `stillhouse run`, from its events."""
    run = common.stillhouse(config)
    total, work = seconds_of(run.events[-1]) - run.launched, work_s(run)
    besides = sum(e["seconds"] for e in run.events if e["event"] == "stage finished" and e["stage"] in BESIDES)
    student = next(s for s in run.report["systems"] if s["role"] == "student")
    return row("stillhouse", work, total - work - besides, student["test"]["accuracy"], besides)


BESIDES = ("baseline", "predictions", "evaluation")


def work_s(run: Run) -> float:
    """Seconds in which the pass or the student's epochs were under way; both count once where they overlap."""
    finished = [e for e in run.events if e["event"] == "stage finished" and e["stage"] == "soft targets"]
    of_pass, end_of_pass = run.report["soft_targets"]["seconds"], seconds_of(finished[0])
    of_student, end = student_s(run), seconds_of(run.epochs("student")[-1])
    together = min(end_of_pass, end) - max(end_of_pass - of_pass, end - of_student)
    return float(of_pass + of_student - max(0.0, together))


def student_s(run: Run) -> float:
    """Seconds from the start of the student's first epoch to the end of its last, including pauses between epochs."""
    epochs = run.epochs("student")
    return seconds_of(epochs[-1]) - seconds_of(epochs[0]) + float(epochs[0]["seconds"])


def seconds_of(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def contender(
    name: str, data: Path, members: list[Path], epochs: int, threads: int, module: str = "benchmarks.contenders"
) -> Row:
    """One contender, in a separate process. module: its main function runs them by name."""
    environment = {**os.environ, "RAY_TRAIN_V2_ENABLED": "1", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", module, name, "--data", str(data)]
    command += ["--members", str(members[0].parent)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--epochs", str(epochs), "--threads", str(threads)],
        cwd=common.HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    total = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return row(name, said["work_s"], total - said["work_s"], said["accuracy"])


def row(who: str, work: float, start: float, accuracy: float, besides: float = 0.0) -> Row:
    return {"who": who, "work s": work, "start s": start, "besides s": besides, "accuracy %": round(100 * accuracy, 2)}


if __name__ == "__main__":
    main()
