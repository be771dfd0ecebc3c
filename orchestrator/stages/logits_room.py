"""Checks the space for members' logits, which a schedule of T needs in storage and in the student's workers.

Preflight calls it before anything starts. For a local folder it checks the disk, for memory this machine. The free
space of an object store and of other nodes is unknown; the note says so.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.run_config import RunConfig
from orchestrator.plan import sizes
from orchestrator.plan.facts import DataFacts
from workers import storage
from workers.data import memory
from workers.data.dataset import Dataset
from workers.errors import RequestError

KEY = "distillation.temperature"


def check(config: RunConfig, dataset: Dataset, members: int) -> tuple[str, ...]:
    """A note on the space that a schedule of T needs; none without a schedule.

    Raises: `RequestError` where storage or memory is too small.
    """
    if not config.distillation.is_scheduled:
        return ()
    data = DataFacts.of(dataset)
    needed = sizes.sizes(config, data, members)
    stored, held, rows = needed.logits, needed.held_by_worker, round(data.examples * data.views * data.positions)
    free = _free(config)
    of = "examples" if data.positions == 1 else "positions"
    what = f"{members} members x {rows:,} {of} x {dataset.classes:,} classes x 4 bytes"
    if free is not None and stored > free:
        raise RequestError(
            f"{KEY}: a schedule keeps each member's logits, {memory.size(stored)} ({what}), and '{config.storage}' has "
            f"{memory.size(free)} free on its disk. Set `storage` to a larger one, or `temperature` to a number."
        )
    workers = config.student.workers[1]
    available = memory.available()
    if workers * held > available:
        raise RequestError(
            f"{KEY}: for a schedule each of the student's workers holds logits of {memory.size(held)} while it mixes "
            f"parts, and {workers} of them have {memory.size(available)} of memory available on this machine. Use a "
            "machine with more memory, fewer members, or set `temperature` to a number."
        )
    where = (
        "not known for this storage" if free is None else f"{memory.size(free)} free on the disk of '{config.storage}'"
    )
    return (
        f"{KEY}: a schedule keeps each member's logits: {memory.size(stored)} in storage ({what}; {where}), and "
        f"{memory.size(held)} of memory in each worker of the student ({memory.size(available)} available on this "
        "machine). The student starts when all of them are there.",
    )


def _free(config: RunConfig) -> int | None:
    """Bytes available for the run's logits, including those already cached; None where unknown."""
    free = storage.free_bytes(config.folder)
    if free is None:
        return None
    place = Path(storage.filesystem(config.folder)[1])
    return free + sum(path.stat().st_size for path in place.glob("logits/*/*.parquet"))
