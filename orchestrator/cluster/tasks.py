"""Retries Ray tasks that raise: trainings of members, predictions, measurements.

Each retry runs in a fresh process, since the state of one that raised may be corrupt. Ray itself retries a task whose
process dies, by the task's `max_retries`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from orchestrator.cluster import errors
from orchestrator.cluster.failures import Failures, often
from orchestrator.cluster.reservation import Waiting, demanded
from orchestrator.cluster.resources import Placement
from orchestrator.cluster.watch import Watch, is_any_alive
from workers import faults
from workers.errors import RunError
from workers.faults import Fault

ATTEMPT = "STILLHOUSE_ATTEMPT"
"""Environment variable of a retry. Ray reuses only processes of an equal environment, so a retry gets a fresh one."""
POLL_S = 1.0


@dataclass
class Task:
    """A job of `workers.evaluation.tasks` with its arguments.

    name: in reports to the watch. doing: description in errors. title: name of its process in Ray. after: name of the
    task whose result it needs, and after which it starts.
    """

    name: str
    job: Any
    arguments: tuple[Any, ...]
    placement: Placement
    doing: str = ""
    title: str = ""
    after: str = ""
    failures: Failures = field(default_factory=Failures)

    def start(self) -> ray.ObjectRef[Any]:
        """Submit it to Ray, in a fresh process where an earlier attempt raised."""
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
    """Each task with its result, in the order of completion. A task that needs another's result starts once the caller
    has taken it.

    check: called every few seconds with each pending task. cancel: whether to cancel pending tasks if the caller stops.
    Raises: `RunError` where a task raises one, where a retry raises in the same epoch, and where no task runs before
    the timeout of `waiting`.
    """
    names = {task.name for task in tasks}
    pending = {task.start(): task for task in tasks if task.after not in names}
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
                    watch.forget(task.name)
                    pending[task.start()] = task
                else:
                    yield task, result
                    pending.update({each.start(): each for each in tasks if each.after == task.name})
            runs = bool(done) or is_any_alive(watch.where(task.name) for task in pending.values())
            waiting.check(runs, granted=lambda: demanded(waiting.need.each) < len(pending))
    finally:
        for ref in pending if cancel else ():
            ray.cancel(ref)


def _decide(task: Task, error: Exception, watch: Watch) -> None:
    """Notify the user of the retry of a task that raised.

    Raises: `RunError` where there is no retry.
    """
    inner = errors.cause(error)
    if isinstance(inner, RunError) or not isinstance(error, ray.exceptions.RayTaskError):
        raise errors.as_run_error(
            task.doing or task.name, error
        ) from error  # an error of the run, or a death after Ray's last retry
    raised = inner if isinstance(inner, Fault) else faults.fault(inner)
    what = (task.doing or task.name) + ("" if raised.at == faults.START else f", epoch {raised.at + 1},")
    if not task.failures.may_restart(raised.at):
        raise errors.failed(what, raised, often(task.failures.attempts, task.failures.repeated)) from raised
    watch.note(f"{what} failed ({raised.headline}): tried again in a fresh process")


@functools.cache
def _run_once(job: Any) -> Any:
    """The job in a process that exits afterwards, so that no other task inherits a broken CUDA context or GPU memory.

    Ray does the same for functions that declare GPUs in their definition.
    """
    return ray.remote(max_calls=1)(job._function)
