"""The member that computes hidden states while the student trains, where `plan.hidden` places it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.config.run_config import TrainingStage
from workers.inference.teacher import Member
from workers.training import objective
from workers.training.beside import Asked
from workers.training.beside_actor import BesideActor

if TYPE_CHECKING:
    from orchestrator.stages.context import Context

POLL_S = 1.0


@contextmanager
def beside(run: Context, stage: TrainingStage, members: Sequence[Member]) -> Iterator[Asked | None]:
    """The member for the terms of a stage; None where no term needs it. An actor lives as long as the context.

    Raises: `RunError` where the cluster has no room for the actor within `ensemble.start_timeout_s`.
    """
    goal = objective.build(stage.loss)
    if not goal.beside:
        yield None
        return
    asked = Asked(members[stage.loss.hidden.member], run.config.ensemble.precision)
    if run.plan.hidden != "actor":
        run.note(f"{asked.member.name} computes hidden states in each worker of '{stage.system}'")
        yield asked
        return
    placement = run.plan.teachers
    options = {**placement.options, "max_restarts": -1, "max_task_retries": -1}  # an answer follows from a batch alone
    actor: Any = ray.remote(BesideActor).options(**options).remote(asked, sorted(goal.beside), placement.threads)
    try:
        _wait(run, actor.ready.remote(), asked.member.name)
        run.note(f"{asked.member.name} computes hidden states in an actor, which sends them to '{stage.system}'")
        yield replace(asked, actor=actor)
    finally:
        ray.kill(actor)


def _wait(run: Context, ready: ray.ObjectRef[bool], name: str) -> None:
    held = run.plan.teachers.held
    need = Need(f"actor of {name} for hidden states", 1, held, held)
    waiting = Waiting(need, run.config.ensemble.start_timeout_s, run.events.note)
    while not ray.wait([ready], timeout=POLL_S)[0]:
        waiting.check()
    ray.get(ready)
