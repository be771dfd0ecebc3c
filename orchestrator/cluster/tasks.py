"""Ray tasks that are started again where they raise: the trainings of members, predictions, measurements.

A process that raised is not trusted with the same work: another attempt runs in a fresh one. A task whose process dies
is begun again by Ray itself, as it is by `max_retries` of each task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from orchestrator.cluster import errors
from orchestrator.cluster.failures import Failures, often
from orchestrator.cluster.reservation import Waiting, Watch, demanded, is_any_alive
from orchestrator.cluster.resources import Placement
from workers import faults
from workers.errors import RunError
from workers.faults import Fault

ATTEMPT = "STILLHOUSE_ATTEMPT"
"""Set in the process of another attempt. Ray gives work to a process of the same environment, so it is a fresh one."""
POLL_S = 1.0


@dataclass
class Task:
    """A job of `workers.evaluation.tasks` with its arguments.

    name: what it tells the watch. doing: what an error calls it. title: what Ray calls its process.
    """

    name: str
    job: Any
    arguments: tuple[Any, ...]
    placement: Placement
    doing: str = ""
    title: str = ""
    failures: Failures = field(default_factory=Failures)

    def start(self) -> ray.ObjectRef[Any]:
        """Hand it to Ray, in a fresh process where an earlier attempt raised."""
        job = _run_once(self.job) if self.placement.num_gpus else self.job
        attempt = self.failures.attempts
        fresh = {"env_vars": {ATTEMPT: f"{self.name} {attempt}"}} if attempt else None
        options = self.placement.options | {"name": self.title or self.name, "runtime_env": fresh}
        started: ray.ObjectRef[Any] = job.options(**options).remote(*self.arguments)
        return started


def completed(
    tasks: Sequence[Task],
    waiting: Waiting,
    watch: Watch,
    check: Callable[[Task], None] = lambda pending: None,
    cancel: bool = False,
) -> Generator[tuple[Task, Any]]:
    """Each task and what it returns, as they end.

    check: called every few seconds with each that is pending. cancel: whether to cancel them where the caller stops.

    Raises: `RunError` where a task raises one, where another attempt raises at the same epoch, and where for so long
    none of the tasks is anywhere.
    """
    pending = {task.start(): task for task in tasks}
    try:
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_S)
            for task in pending.values():
                check(task)
            for ref in done:
                task = pending.pop(ref)
                try:
                    result = ray.get(ref)
                except Exception as error:
                    _decide(task, error, watch)
                    pending[task.start()] = task
                else:
                    yield task, result
            runs = bool(done) or is_any_alive(watch.where(task.name) for task in pending.values())
            waiting.check(runs, granted=lambda: demanded(waiting.need.each) < len(pending))
    finally:
        for ref in pending if cancel else ():
            ray.cancel(ref)


def _decide(task: Task, error: Exception, watch: Watch) -> None:
    """Say that a task that raised is started again.

    Raises: `RunError` where it is not.
    """
    inner = errors.cause(error)
    if isinstance(inner, RunError) or not isinstance(error, ray.exceptions.RayTaskError):
        raise errors.as_run_error(
            task.doing or task.name, error
        ) from error  # of the run itself, or a death that Ray gave up on
    raised = inner if isinstance(inner, Fault) else faults.fault(inner)
    what = (task.doing or task.name) + ("" if raised.at == faults.START else f", epoch {raised.at + 1},")
    if not task.failures.may_restart(raised.at):
        raise errors.failed(what, raised, often(task.failures.attempts, task.failures.repeated)) from raised
    watch.note(f"{what} failed ({raised.headline}): tried again in a fresh process")


@functools.cache
def _run_once(job: Any) -> Any:
    """The job in a process that ends with it, as Ray does for GPUs that are asked for where a function is defined: no
    other task meets a CUDA context that is broken, and no memory of a GPU stays taken."""
    return ray.remote(max_calls=1)(job._function)
