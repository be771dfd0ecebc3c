"""Speed of the pass relative to its teachers' own speed, with 10 to 100 teachers that only sleep.

Each teacher takes 20 ms per batch of 256, like an accelerator, and no CPU. So the ideal rate is 50 batches a second for
any number of teachers. The loss is the cost of Ray, of the mean on the driver and of writing the store. Start-up is
excluded. The pool, the mean and the store are Stillhouse's own; only the actors are replaced.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from typing import Any

from benchmarks import common
from orchestrator.cluster import environment

environment.prepare()  # before Ray is imported

import ray  # noqa: E402

from benchmarks.sleeping_teacher import SleepingTeacher  # noqa: E402
from orchestrator.config.ensemble import EnsembleSpec  # noqa: E402
from orchestrator.teachers.pool import Hooks, Hosting, TeacherPool  # noqa: E402
from workers.data.numbering import Numbering  # noqa: E402
from workers.inference.reduce import Reduction, Rule  # noqa: E402
from workers.inference.teacher import Member  # noqa: E402
from workers.specs.models import ModelSpec  # noqa: E402
from workers.targets.layout import PartLayout, part_rows  # noqa: E402
from workers.targets.soft_targets import Numerics  # noqa: E402

BATCH, BATCH_S, CLASSES = 256, 0.020, 10
MARKS = {10: 0.98, 40: 0.96, 100: 0.90}
NUMERICS = Numerics(device="cpu", precision="float32", threads=1, micro_batch=BATCH)


def sleeping_pool(teachers: int, layout: PartLayout, classes: int, batch_s: float) -> TeacherPool:
    """Stillhouse's pool with teachers that take `batch_s` seconds per batch."""
    sizes = [len(layout.piece_ids(piece)) for part in range(layout.parts) for piece in layout.pieces(part)]

    def start(hosted: list[Member], place: int | None) -> Any:
        return SleepingTeacher.remote(sizes, classes, BATCH, batch_s)  # type: ignore[attr-defined]

    model = ModelSpec(factory="none:at_all")
    members = [Member(f"member-{k}", model, "") for k in range(teachers)]
    return TeacherPool(
        Hosting(members, [1.0] * teachers, [range(k, k + 1) for k in range(teachers)]),
        start,
        EnsembleSpec.model_validate({"size": teachers, "model": model.model_dump(), "training": {"epochs": 1}}),
        Hooks(lambda _, names, __: sys.exit(f"teacher of {names} lost"), lambda: None, lambda pool: None),
    )


def plain_reduction(folder: str, layout: PartLayout, classes: int, on_workers: bool = False) -> Reduction:
    """The reduction for the arithmetic mean, with all classes stored."""
    return Reduction(
        folder=folder,
        layout=layout,
        classes=classes,
        rule=Rule("arithmetic"),
        numerics=NUMERICS,
        numbering=Numbering(layout.examples),
        reduces_on_workers=on_workers,
    )


def one_pass(teachers: int, examples: int) -> tuple[float, float]:
    """Seconds of start-up and of a whole pass, including writing the store."""
    layout = PartLayout(examples, part_rows(CLASSES))
    pool = sleeping_pool(teachers, layout, CLASSES, BATCH_S)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        with pool:
            up = time.perf_counter()
            reduction = plain_reduction(folder, layout, CLASSES)
            for _ in pool.stream(range(layout.parts), 1.0, reduction):
                pass
            done = time.perf_counter()
    return up - begun, done - up


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--teachers", type=int, nargs="+", default=[10, 20, 40, 100])
    asked = parser.parse_args()
    examples = asked.examples or 48 * part_rows(CLASSES)
    started = common.machine()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    rows, marks = [], {}
    for teachers in asked.teachers:
        start_s, pass_s = one_pass(teachers, examples)
        made, ideal = examples / BATCH / pass_s, 1 / BATCH_S
        common.progress(f"{teachers} teachers: {made:.1f} of {ideal:.0f} batches/s")
        rows.append(
            {"teachers": teachers, "start_s": start_s, "pass_s": pass_s, "batches_s": made, "of_ideal": made / ideal}
        )
        if teachers in MARKS:
            marks[f"{teachers} teachers"] = common.mark(made / ideal, MARKS[teachers])
    ray.shutdown()
    common.publish("simulated_accelerators", asked.results, started, rows, marks=marks)


if __name__ == "__main__":
    main()
