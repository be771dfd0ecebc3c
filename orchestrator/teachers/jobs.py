"""Reductions and writes of a pass: in threads of this process, or as Ray tasks beside the teachers.

An exception here comes from storage and not from a teacher. The state of the pool decides on a retry.
"""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray

from orchestrator.teachers import evidence
from orchestrator.teachers.events import Event, Made, Raised
from orchestrator.teachers.instructions import Drop, Reduce, Retry, Write
from workers.inference.reduce import Reduction, part_beside_teachers, reduced_beside_teachers
from workers.targets.soft_targets import Part

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """An answer for a job, with its reference and its actor in Ray where known."""

    values: Any
    ref: str = ""
    actor: str = ""


class RunningJob:
    """A running job. start: starts it and returns a future or, for a Ray task, an object reference."""

    def __init__(self, part: int, start: Callable[[], Any], given: Mapping[int, Given]) -> None:
        self.part, self.start, self.given = part, start, given
        self.running = start()
        self.future: Future[Any] = self.running if isinstance(self.running, Future) else self.running.future()


class Jobs:
    """The jobs of a pass, during its `with` block."""

    def __init__(self, reduction: Reduction, at_once: int) -> None:
        """at_once: most concurrent jobs."""
        self.reduction = reduction
        self.threads = ThreadPoolExecutor(at_once, thread_name_prefix="reduction")
        self.calls: dict[int, RunningJob] = {}
        self.made: dict[int, Any] = {}
        """Results of jobs: soft targets of a piece, or a part."""

    def __enter__(self) -> Jobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.threads.shutdown(cancel_futures=True)

    def reduce(self, wanted: Reduce, given: Mapping[int, Given]) -> None:
        """Start to reduce a piece. given: the answers, by request."""
        self.calls[wanted.job] = RunningJob(
            wanted.part, self._start_of(wanted, [each.values for each in given.values()]), given
        )

    def _start_of(self, wanted: Reduce, values: list[Any]) -> Callable[[], Any]:
        reduction, members = self.reduction, list(wanted.members)
        if not reduction.reduces_on_workers:
            return lambda: self.threads.submit(reduction.rule.reduce, members, *values)
        if wanted.whole:
            task = reduction.task(wanted.part)
            return lambda: part_beside_teachers.remote(task, members, *values)
        return lambda: reduced_beside_teachers.remote(reduction.rule, members, *values)

    def write(self, wanted: Write) -> None:
        members, pieces = list(wanted.members), [self.made.pop(job) for job in wanted.pieces]
        number = wanted.part
        self.calls[wanted.job] = RunningJob(
            number, lambda: self.threads.submit(self.reduction.write, number, members, pieces), {}
        )

    def retry(self, wanted: Retry) -> None:
        failed = self.calls.pop(wanted.failed)
        logger.warning("%s", wanted.why)
        if wanted.cancel:
            ray.cancel(failed.running, force=True)
        self.calls[wanted.job] = RunningJob(failed.part, failed.start, failed.given)

    def drop(self, wanted: Drop) -> None:
        for job in wanted.jobs:
            self.calls.pop(job, None)
            self.made.pop(job, None)

    def take(self, job: int) -> Part:
        """Remove and return the part that a job wrote."""
        made = self.made.pop(job)
        assert isinstance(made, Part)
        return made

    def wait(self, timeout_s: float) -> None:
        """Wait until a job has ended."""
        futures = [call.future for call in self.calls.values()]
        concurrent.futures.wait(futures, timeout_s, concurrent.futures.FIRST_COMPLETED)

    def ends(self, now_s: float) -> list[Event]:
        """Events of the jobs that have ended."""
        over = {job: call for job, call in self.calls.items() if call.future.done()}
        return [self._end(job, call, now_s) for job, call in over.items()]

    def _end(self, job: int, call: RunningJob, now_s: float) -> Event:
        error = call.future.exception()
        if error is None:
            del self.calls[job]
            self.made[job] = call.future.result()
            return Made(now_s, job)
        event = evidence.of_job(error, job, call.part, call.given, now_s)
        if not isinstance(event, Raised):  # a retry may still need it
            del self.calls[job]
        return event
