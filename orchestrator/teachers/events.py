"""What happens to a pool, as its state takes it. Each event carries the time at which the pool noticed it.

Actors, asks and jobs have numbers that the state gave them in its instructions. An event about a number that is no
longer in use changes nothing, so news may be late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.teachers.policy import Kind


@dataclass(frozen=True, slots=True)
class Event:
    """now_s: seconds on the clock of the pool."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Open(Event):
    """The pool is entered: actors are to be started."""


@dataclass(frozen=True, slots=True)
class Stream(Event):
    """Parts of the store are to be made, in this order: the number and the pieces of each.

    near: answers stay where the teachers are; a part of a single piece is then reduced and written in one job.
    at_once: the most jobs under way.
    """

    parts: Sequence[tuple[int, range]]
    near: bool
    at_once: int


@dataclass(frozen=True, slots=True)
class Close(Event):
    """The pool is left: every actor is to be released."""


@dataclass(frozen=True, slots=True)
class Tick(Event):
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Leaving(Event):
    """These nodes are about to go: preempted, or drained."""

    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Up(Event):
    """An actor has loaded its members. part_s: about how long a part takes it, at most."""

    actor: int
    node: str
    stacked: bool
    part_s: float


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """An actor is lost.

    evidence: one line. told: the evidence in full, where that is more. members: those that the evidence is about; all
    of the actor's where it names none. at: the piece at which it failed, or `faults.START`; None where unknown. part:
    the part that the piece belongs to.
    """

    actor: int
    kind: Kind
    evidence: str
    members: Sequence[str] = ()
    at: int | None = None
    part: int | None = None
    told: str = ""
    cause: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """An answer is there. wrong: why it cannot be a sum of weighted probabilities; empty where it can."""

    ask: int
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Made(Event):
    """A job has ended: a piece is reduced, or a part is written."""

    job: int


@dataclass(frozen=True, slots=True)
class Raised(Event):
    """A job raised an exception.

    headline: one line of it. error: what ends the run unless the job is tried again. final: another attempt would not
    help.
    """

    job: int
    headline: str
    error: BaseException
    cause: BaseException | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class AnswersLost(Event):
    """A job could not read the answers that it was given.

    ask: the one that is lost; None where Ray does not say. error: what ends the run where no actor explains it.
    """

    job: int
    ask: int | None
    evidence: str
    error: BaseException
    cause: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """An error that is about the run itself, and no actor's."""

    error: BaseException
    cause: BaseException | None = None
