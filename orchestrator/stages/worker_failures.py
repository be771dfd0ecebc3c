"""Decides whether Ray Train restarts its workers after a failure, and notifies the user.

Ray Train calls it in its controller before it restarts workers; an exception raised here ends the run instead. So the
rule is the same as for other components (`failures`), and a repeated error does not cause a third start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.train import UserCallback

from orchestrator.cluster.failures import Failures
from workers import faults
from workers.errors import StillhouseError
from workers.faults import Fault


class GivenUp(Exception):
    """The workers are not restarted. raised: the cause; attempts, repeated: as in `failures.often`."""

    def __init__(self, raised: Exception, attempts: int = 0, repeated: bool = False) -> None:
        super().__init__(raised, attempts, repeated)
        self.raised, self.attempts, self.repeated = raised, attempts, repeated


class Restarts(UserCallback):
    """Decides for one run of Ray Train, in the process of its controller.

    news: a `ray.util.queue.Queue` that gets `(role, text)` for the user.
    """

    def __init__(self, role: str, news: Any) -> None:
        self.role, self.news = role, news
        self.failures, self.reports = Failures(), 0

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        """An epoch is complete."""
        self.reports += 1

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise `GivenUp`, or notify the user of the restart. worker_exceptions: by rank."""
        if any(_is_preempted(error) for error in worker_exceptions.values()):
            return  # Ray Train counts these apart
        reason = cause(worker_exceptions)
        if isinstance(reason, StillhouseError):
            raise GivenUp(reason)
        raised = told(reason)
        at = raised.at if isinstance(reason, Fault) and not raised.by_peer else None
        if not self.failures.may_restart(at, self.reports):
            raise GivenUp(raised, self.failures.attempts, self.failures.repeated)
        text = (
            f"training the {self.role}{place(raised)} failed ({raised.headline}); its workers are started again from "
            "the last checkpoint"
        )
        self.news.actor.put_nowait.remote((self.role, text))


def cause(failed: Mapping[int, Exception]) -> Exception:
    """The error, among those of the workers by rank, that caused the others.

    The order of preference: an error about the run, an exception of a worker (of the lowest rank), the death of a
    process, and last an error that only reflects the end of another worker.
    """

    def order(error: Exception) -> int:
        if isinstance(error, StillhouseError):
            return 0
        if isinstance(error, Fault):
            return 3 if error.by_peer else 1
        return 2

    return min((failed[rank] for rank in sorted(failed)), key=order)


def told(reason: Exception) -> Fault:
    """A cause as a `Fault` for the user; for a process that died, with the last line of Ray's message."""
    if isinstance(reason, Fault):
        return reason
    died = getattr(reason, "health_check_failure", reason)
    lines = str(died).strip().splitlines()
    return Fault(type(died).__name__, lines[-1] if lines else "no message")


def place(raised: Fault) -> str:
    """The failed worker and its epoch in brackets, as far as known."""
    epoch = [] if raised.at == faults.START else [f"epoch {raised.at + 1}"]
    known = ", ".join([raised.of] * bool(raised.of) + epoch)
    return f" ({known})" if known else ""


def _is_preempted(error: Exception) -> bool:
    died = getattr(error, "health_check_failure", error)
    return isinstance(died, ray.exceptions.RayActorError) and died.preempted
