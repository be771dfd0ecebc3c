"""Classifies errors of Ray for the pool: a lost actor, a lost answer, or an error of the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.cluster import errors
from orchestrator.teachers.events import AnswersLost, Ended, Event, Lost, Raised
from orchestrator.teachers.policy import Kind
from workers import faults
from workers.errors import BadAnswer, RunError
from workers.faults import Fault

GONE = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
"""Ray's errors for an actor, or an answer of it, that no longer exists."""
LOST = (*GONE, ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError)


@dataclass(frozen=True)
class Call:
    """A call of an actor that hosts `names`.

    at: the requested piece, or `faults.START`; where: the same as text; part: the part of the piece.
    """

    actor: int
    names: tuple[str, ...]
    at: int
    where: str
    part: int | None = None


def of(error: BaseException, call: Call, now_s: float) -> Event:
    """The event for a call that raised `error`."""
    inner, actor, at, part = errors.cause(error), call.actor, call.at, call.part
    if isinstance(inner, BadAnswer):
        return Lost(now_s, actor, Kind.WRONG, str(inner), [inner.member], at=at, part=part, cause=inner)
    if isinstance(inner, RunError):
        return Ended(now_s, inner)
    if getattr(error, "actor_init_failed", False):
        return Lost(now_s, actor, Kind.FAILED, briefly(error), at=faults.START, cause=inner)
    if isinstance(error, LOST):
        return Lost(now_s, actor, Kind.DIED, briefly(error), cause=inner)
    if isinstance(error, ray.exceptions.RayTaskError):
        raised = inner if isinstance(inner, Fault) else faults.fault(inner)
        members = [raised.of] if len(call.names) > 1 and raised.of else []
        headline = f"{', '.join([*members, call.where])}: {raised.headline}"
        told = str(raised)
        return Lost(now_s, actor, Kind.FAILED, headline, members, at=at, part=part, told=told, cause=inner)
    return Ended(now_s, errors.as_run_error(f"the teacher of {', '.join(call.names)}", error), error)


def of_job(error: BaseException, job: int, part: int, answers: Mapping[int, Any], now_s: float) -> Event:
    """The event for a job that raised `error`. answers: the job's inputs (`actors.Answer`), by request."""
    inner, doing = errors.cause(error), f"writing part {part} of the soft targets"
    if isinstance(inner, GONE):
        lost = {getattr(inner, "object_ref_hex", None), getattr(inner, "actor_id", None)}
        ask = next((ask for ask, values in answers.items() if lost & {values.ref, values.actor}), None)
        return AnswersLost(now_s, job, ask, briefly(inner), errors.as_run_error(doing, inner), inner)
    if isinstance(inner, RunError):
        return Raised(now_s, job, str(inner), inner, final=True)
    raised = inner if isinstance(inner, Fault) else faults.fault(inner)
    return Raised(now_s, job, raised.headline, errors.failed(doing, raised), raised)


def briefly(error: BaseException) -> str:
    """The end of an actor in a few words: its exception if it failed to start, else the type of Ray's error."""
    lines = str(error).strip().splitlines()
    return lines[-1] if "creation task" in str(error) else type(error).__name__
