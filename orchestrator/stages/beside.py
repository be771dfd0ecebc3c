"""The member that computes hidden states while the student trains, where `plan.hidden` places it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from orchestrator.cluster import errors
from orchestrator.stages.ray_tasks import waiting_for
from workers.inference.teacher import Member
from workers.specs.objective import DistillationSpec
from workers.training import objective
from workers.training.beside import MemberBeside
from workers.training.beside_actor import ActorWork, BesideActor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.stages.context import Context
    from workers.training.ray_worker import StudentTraining

POLL_S = 1.0
RESTARTS = 3
"""How often Ray restarts the actor, and sends it the ids of a batch again."""
ANSWER_S = 120.0
"""How long a batch may take, besides the time in which the cluster lacks resources for the actor."""


def asked_of(run: Context, loss: DistillationSpec, members: Sequence[Member]) -> MemberBeside | None:
    """The member whose hidden states the terms of an objective need; None where no term needs any."""
    if not objective.build(loss).beside:
        return None
    device = run.plan.teachers.device if run.plan.hidden == "actor" else run.plan.student.alone.device
    return MemberBeside(members[loss.hidden.member], run.machines.settled(run.config.ensemble.precision, device))


@contextmanager
def started(run: Context, job: StudentTraining) -> Iterator[MemberBeside | None]:
    """The member beside a job, in an actor for the time of the context where the plan says so; None without one.

    Raises: `RunError` where the cluster lacks resources for the actor within `ensemble.start_timeout_s`.
    """
    asked = job.beside
    if asked is None or run.plan.hidden != "actor":
        if asked is not None:
            run.note(f"{asked.member.name} computes hidden states in each worker of '{job.role}'")
        yield asked
        return
    placement = run.plan.teachers
    options = {**placement.options, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    work = ActorWork(
        needs=sorted(objective.build(job.loss).beside),
        student=job.model,
        split=job.split,
        threads=placement.threads,
        on=placement.device,
    )
    actor: Any = ray.remote(BesideActor).options(**options).remote(asked, work, run.data)
    try:
        _wait(run, actor.ready.remote(), asked.member.name)
        run.note(f"{asked.member.name} computes hidden states in an actor, which sends them to '{job.role}'")
        yield replace(asked, actor=actor, timeout_s=run.config.ensemble.start_timeout_s + ANSWER_S)
    finally:
        ray.kill(actor)


def _wait(run: Context, ready: ray.ObjectRef[bool], name: str) -> None:
    what = f"actor of {name} for hidden states"
    waiting = waiting_for(run, what, 1, run.plan.teachers.held)
    while not ray.wait([ready], timeout=POLL_S)[0]:
        waiting.check()
    try:
        ray.get(ready)
    except ray.exceptions.RayError as error:
        raise errors.as_run_error(f"starting the {what}", error) from error
