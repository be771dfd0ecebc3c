"""Bytes and CPU time per example in the driver and in a student's worker, as members, classes and workers grow.

- members, classes: teachers respond at once with precomputed outputs, so that only the driver works. Bytes are those
  that the driver receives and writes; CPU time is that of all the driver's threads. From 4,096 classes on, parts are
  assembled on the teachers' workers, and the driver only receives notifications.
- workers: one student worker's share of the second epoch, with soft targets from the store. Bytes are those that all
  workers read together; CPU time is that of one worker for its own examples, without the student.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import common
from orchestrator.cluster import environment

environment.prepare()  # before Ray is imported

import ray  # noqa: E402

from benchmarks.common import Row  # noqa: E402
from benchmarks.simulated_accelerators import NUMERICS, plain_reduction, sleeping_pool  # noqa: E402
from orchestrator.plan.plan import REDUCED_ON_WORKERS  # noqa: E402
from workers.data.dataset import Split  # noqa: E402
from workers.data.numbering import RowNames  # noqa: E402
from workers.targets import kinds, soft_targets  # noqa: E402
from workers.targets.layout import PartLayout, part_rows  # noqa: E402
from workers.targets.reader import StoreReader  # noqa: E402
from workers.training import loader  # noqa: E402

MEMBERS, CLASSES, WORKERS = (1, 2, 5, 10, 20), (10, 100, 1000, 10_000), (1, 2, 4, 8)
BATCH_SIZE = 1024


def driver_cost(members: int, classes: int, parts: int) -> Row:
    """The driver's cost of a pass over this many parts, with teachers that respond at once."""
    layout = PartLayout(parts * part_rows(classes), part_rows(classes))
    pool = sleeping_pool(members, layout, classes, 0.0)
    on_workers = classes >= REDUCED_ON_WORKERS
    with tempfile.TemporaryDirectory() as folder, pool:
        reduction = plain_reduction(folder, layout, classes, on_workers)
        began = time.process_time()
        for _ in pool.stream(range(parts), 1.0, reduction):
            pass
        cpu = time.process_time() - began
        written = sum(path.stat().st_size for path in Path(folder).iterdir())
    moved = 0 if on_workers else written + 4 * members * classes * layout.examples
    return cost("driver", members, classes, 0, moved / layout.examples, cpu / layout.examples)


def worker_cost(workers: int, classes: int, parts: int) -> Row:
    """The cost of an epoch over one worker's examples."""
    rows = part_rows(classes)
    layout = PartLayout(parts * rows, rows)
    split = Split(np.zeros((layout.examples, 1), np.float32), np.zeros(layout.examples, np.int64))
    random = torch.rand(rows, classes)
    targets = kinds.of_mean(random / random.sum(dim=1, keepdim=True), "float32", None)
    with tempfile.TemporaryDirectory() as folder:
        written = {
            number: soft_targets.write_part(
                folder, number, RowNames(layout.ids(number)), targets, members=["member-0"], numerics=NUMERICS
            )
            for number in range(parts)
        }
        labels = loader.SoftLabels(split, layout, written.__getitem__, StoreReader(folder, 1.0))
        mine = 0
        began = time.process_time()
        for batch in loader.batches(labels, 1, BATCH_SIZE, 0, torch.device("cpu"), world=workers):
            mine += len(batch.x)
        cpu = time.process_time() - began
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return cost("student worker", 0, classes, workers, workers * size / layout.examples, cpu / mine)


def cost(who: str, members: int, classes: int, workers: int, moved: float, cpu_s: float) -> Row:
    return {
        "who": who,
        "members": members or None,
        "classes": classes,
        "workers": workers or None,
        "bytes an example": round(moved, 1),
        "CPU us an example": round(cpu_s * 1e6, 3),
    }


def main() -> None:
    asked = common.arguments(__doc__, parts=24).parse_args()
    started = common.machine()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    rows = [driver_cost(members, 100, asked.parts) for members in MEMBERS]
    rows += [driver_cost(5, classes, asked.parts) for classes in CLASSES]
    ray.shutdown()
    rows += [worker_cost(workers, 100, asked.parts) for workers in WORKERS]
    common.publish("scaling_cost", asked.results, started, rows, parts=asked.parts)


if __name__ == "__main__":
    main()
