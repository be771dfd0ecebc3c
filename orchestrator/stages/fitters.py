"""How members and students are trained: `FITTERS`, by the learner of their kind of model.

A member learns in a Ray task. A student that is a network learns under Ray Train: in steps over several workers, which
Ray Train can restart. As an estimator it learns by one `fit` in a Ray task. Each way writes the weights and returns the
history. `training` handles caching and completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.cluster.tasks import Task
from orchestrator.stages import beside, ray_train
from orchestrator.stages.ray_tasks import run_tasks
from workers.artifacts.key import Key
from workers.inference.teacher import Member
from workers.specs.models import Learner
from workers.training.fit_tasks import FitJob, fit
from workers.training.loop import Epoch
from workers.training.ray_worker import StudentTraining, WorkerJob
from workers.training.tasks import MemberJob, train_member

if TYPE_CHECKING:
    from orchestrator.stages.context import Context


@dataclass(frozen=True)
class StudentJob(StudentTraining):
    """A training, and by which soft targets it is known in the cache."""

    store_key: Key | None = None
    """The cache key of the soft targets."""
    store_content: Callable[[], str] = str
    """sha256 over the soft targets themselves; waits until they are complete."""
    store_fewer: tuple[str, ...] = ()
    """sha256 of those parts that lack members, as far as they exist when the job begins."""


StudentFitter = Callable[["Context", StudentJob, Member, str, str], list[Epoch]]
"""Trains a job, writes the weights of its member and returns the history. folder: for the checkpoints to resume from;
name: of the checkpoints in it."""


def by_ray_train(run: Context, job: StudentJob, member: Member, folder: str, name: str) -> list[Epoch]:
    """Train a network by the training loop on every worker; resumes from its last checkpoint."""
    with beside.started(run, job) as asked:
        known = {each.name: getattr(job, each.name) for each in fields(StudentTraining)}
        work = WorkerJob(
            **known | {"beside": asked},
            data=run.data,
            folder=folder,
            weights=member.weights,
            threads=run.plan.student.threads,
            events=run.heartbeat.queue,
            run=run.config.name,
        )
        return ray_train.fit(run, work, name)


def by_one_fit(run: Context, job: StudentJob, member: Member, folder: str, name: str) -> list[Epoch]:
    """Fit an estimator in a task, which restarts where its process dies.

    Raises: `RunError` where the cluster lacks resources for the task within `ensemble.start_timeout_s`.
    """
    placement = run.plan.student.alone
    work = FitJob(
        member,
        job.training,
        job.seed,
        key="",
        threads=run.plan.student.threads_alone,
        views=run.dataset.views,
        store=job.store,
        loss=job.loss,
        run=run.config.name,
    )
    doing = f"training the {job.role}"
    task = Task(job.role, fit, (work, run.data, run.heartbeat.queue), placement, doing, f"fit {job.role}")
    with run_tasks(run, doing, [task]) as ended:
        ((_, history),) = ended
    found: list[Epoch] = history
    return found


class Fitter(NamedTuple):
    """How models of a learner are trained. job: what the Ray task that trains a member takes."""

    job: type[MemberJob]
    member: Any
    student: StudentFitter


FITTERS: Mapping[Learner, Fitter] = {
    "network": Fitter(MemberJob, train_member, by_ray_train),
    "estimator": Fitter(FitJob, fit, by_one_fit),
}
"""Fitters by learner. Preflight rejects a student whose kind can only be loaded, and so has none."""
