"""What the state of the pool wants done. The pool executes a list of instructions in its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instruction:
    """Base of all instructions."""


@dataclass(frozen=True, slots=True)
class Start(Instruction):
    """Start an actor that hosts these members.

    place: its bundle of the reservation; None: anywhere. stacked: as of `Prepare`. again: it replaces one that is lost.
    """

    actor: int
    members: tuple[str, ...]
    place: int | None
    stacked: bool | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Prepare(Instruction):
    """Tell an actor whether its members are computed stacked, or let it choose (None). It is up once it answers."""

    actor: int
    stacked: bool | None


@dataclass(frozen=True, slots=True)
class Kill(Instruction):
    """Release an actor with all that it was asked. hung: it may not react, so its node ends the process."""

    actor: int
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Ask(Instruction):
    """Ask an actor for a piece.

    shares: the weights of its members, of weights that sum to 1 over all present members. ahead: the pieces that will
    be asked for next.
    """

    ask: int
    actor: int
    piece: int
    shares: Mapping[str, float]
    ahead: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Discard(Instruction):
    """Forget the answers to these asks, but report when each ends: until then the actor is busy with it."""

    asks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Release(Instruction):
    """Forget these asks and their answers."""

    asks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Check(Instruction):
    """Compare what the present members answered when they started (`orchestrator.teachers.checks`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Instruction):
    """Reduce the answers to a piece. whole: the part is this piece alone; write it in the same job."""

    job: int
    part: int
    piece: int
    members: tuple[str, ...]
    asks: tuple[int, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Write(Instruction):
    """Write a part. pieces: the jobs that reduced its pieces, in their order."""

    job: int
    part: int
    members: tuple[str, ...]
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Retry(Instruction):
    """Do the work of the job `failed` again, as `job`. why: to be logged. cancel: the failed one still runs."""

    job: int
    failed: int
    why: str
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class Drop(Instruction):
    """Forget these jobs and what they made."""

    jobs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish(Instruction):
    """Hand on the part that the job made."""

    job: int
    part: int


@dataclass(frozen=True, slots=True)
class Note(Instruction):
    """Tell the observers: an action of `policy.Action`, `back` or `moves`, of which members, and why."""

    action: str
    members: tuple[str, ...]
    evidence: str


@dataclass(frozen=True, slots=True)
class Fail(Instruction):
    """End the run with this error. lacks_room: what the cluster has free belongs to the message."""

    error: BaseException
    cause: BaseException | None = None
    lacks_room: bool = False
