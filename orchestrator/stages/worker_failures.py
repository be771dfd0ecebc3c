"""Whether the workers of a Ray Train run are started again after a failure, and what the user is told.

Ray Train asks in its controller, before it starts workers again; an exception raised here ends the run instead. So the
rule is the one of every other component (`failures`), and no third start is spent on an error that came twice.
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
    """The workers are not started again. raised: the cause; attempts, repeated: as of `failures.often`."""

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
        """Raise `GivenUp`, or tell the user that the workers are started again. worker_exceptions: by rank."""
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
    """Which of the errors of workers, by rank, was the cause of the others.

    An error about the run, then an exception of a worker (of the lowest rank), then a process that died. Last comes
    what only shows that another worker ended.
    """

    def order(error: Exception) -> int:
        if isinstance(error, StillhouseError):
            return 0
        if isinstance(error, Fault):
            return 3 if error.by_peer else 1
        return 2

    return min((failed[rank] for rank in sorted(failed)), key=order)


def told(reason: Exception) -> Fault:
    """A cause as it is told: of a process that died, what Ray says last."""
    if isinstance(reason, Fault):
        return reason
    died = getattr(reason, "health_check_failure", reason)
    lines = str(died).strip().splitlines()
    return Fault(type(died).__name__, lines[-1] if lines else "no message")


def place(raised: Fault) -> str:
    """Which worker failed and in which epoch, as far as that is known, in brackets."""
    epoch = [] if raised.at == faults.START else [f"epoch {raised.at + 1}"]
    known = ", ".join([raised.of] * bool(raised.of) + epoch)
    return f" ({known})" if known else ""


def _is_preempted(error: Exception) -> bool:
    died = getattr(error, "health_check_failure", error)
    return isinstance(died, ray.exceptions.RayActorError) and died.preempted
