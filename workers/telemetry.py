"""Prometheus metrics of a run. Ray exports them from every process, with `ray_` as a prefix of each name.

A process first sets the label of its run. Without it, as for teachers or a training loop used alone, no metric is
exported.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SOFT_TARGET_EXAMPLES = "stillhouse_soft_target_examples_total"
SOFT_TARGET_BYTES = "stillhouse_soft_target_bytes_total"
PARTS_IN_FLIGHT = "stillhouse_parts_in_flight"
TEACHER_BUSY_S = "stillhouse_teacher_busy_seconds_total"
MEMBERS_LIVE = "stillhouse_members_live"
MEMBERS_EXPECTED = "stillhouse_members_expected"
MEMBER_RESTARTS = "stillhouse_member_restarts_total"
STUDENT_EXAMPLES = "stillhouse_student_examples_total"
STUDENT_WAIT_S = "stillhouse_student_wait_seconds_total"
EPOCHS = "stillhouse_epochs_total"

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    SOFT_TARGET_EXAMPLES: ("Examples whose soft targets were written.", ()),
    SOFT_TARGET_BYTES: ("Bytes of soft targets that were written.", ()),
    TEACHER_BUSY_S: ("Seconds that a member's teacher was busy, with those that share it.", ("member",)),
    MEMBER_RESTARTS: ("How often a member's teacher was started again.", ("member",)),
    STUDENT_EXAMPLES: ("Examples that the student's workers were given to train on.", ()),
    STUDENT_WAIT_S: ("Seconds that the student's workers waited for soft targets, summed over them.", ()),
    EPOCHS: ("Epochs that a system was trained for.", ("system",)),
}
GAUGES = {
    PARTS_IN_FLIGHT: "Answers that teachers were asked for and that were not used yet.",
    MEMBERS_LIVE: "Members whose teachers are up.",
    MEMBERS_EXPECTED: "Members whose teachers a pass needs; 0 where there is none.",
}
SAMPLE_S = 5.0
"""Interval in seconds at which the totals of a loop are sampled."""

_run = ""


def label(run: str) -> None:
    """Set the run whose metrics this process exports."""
    global _run
    _run = run


def count(name: str, amount: float = 1.0, **tags: str) -> None:
    """Add to a counter."""
    if _run and amount:
        _metric(name).inc(amount, {"run": _run, **tags})


def gauge(name: str, value: float) -> None:
    """Set a gauge."""
    if _run:
        _metric(name).set(value, {"run": _run})


@contextmanager
def sampled(totals: Callable[[], dict[str, float]]) -> Iterator[None]:
    """Count the increases of `totals()` during the block, so that a loop does not depend on Prometheus."""
    ended, seen = threading.Event(), totals()

    def look() -> None:
        now = totals()
        for name, total in now.items():
            count(name, total - seen[name])
        seen.update(now)

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            look()

    watcher = threading.Thread(target=watch, name="metrics", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        look()


@functools.cache
def _metric(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    if name in GAUGES:
        return Gauge(name, GAUGES[name], ("run",))
    description, tags = COUNTERS[name]
    return Counter(name, description, ("run", *tags))
