"""Events of a pool, the input of its state. Each event carries the time at which the pool noticed it.

Actors, requests (asks) and jobs have numbers from the state's instructions. An event with a number no longer in use
has no effect, so events may be late.
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
    """The pool opens and has to start its actors."""


@dataclass(frozen=True, slots=True)
class Stream(Event):
    """The pool has to compute parts of the store, in this order: the number and the pieces of each.

    reduces_on_workers: answers stay on the teachers' nodes; one job then reduces and writes a part of a single piece.
    at_once: most concurrent jobs.
    """

    parts: Sequence[tuple[int, range]]
    reduces_on_workers: bool
    at_once: int


@dataclass(frozen=True, slots=True)
class Close(Event):
    """The pool closes and has to release every actor."""


@dataclass(frozen=True, slots=True)
class Tick(Event):
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Leaving(Event):
    """These nodes will be preempted or drained."""

    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Up(Event):
    """An actor has loaded its members. part_s: upper estimate of its time for a part."""

    actor: int
    node: str
    stacked: bool
    part_s: float


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """An actor is lost.

    evidence: one line. told: the full evidence, where it is longer. members: those that the evidence names; all of the
    actor's where it names none. at: the piece at which it failed, or `faults.START`; None where unknown. part: the part
    of that piece.
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
    """An answer has arrived. wrong: why it is not a valid sum of weighted probabilities; empty where it is."""

    ask: int
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Made(Event):
    """A job has reduced a piece or written a part."""

    job: int


@dataclass(frozen=True, slots=True)
class Raised(Event):
    """A job raised an exception.

    headline: its first line. error: ends the run unless the job is retried. final: a retry would not help.
    """

    job: int
    headline: str
    error: BaseException
    cause: BaseException | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class AnswersLost(Event):
    """A job could not read its answers.

    ask: the lost one; None where Ray does not report it. error: ends the run if no lost actor explains the loss.
    """

    job: int
    ask: int | None
    evidence: str
    error: BaseException
    cause: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """An error of the run itself, not of an actor."""

    error: BaseException
    cause: BaseException | None = None
