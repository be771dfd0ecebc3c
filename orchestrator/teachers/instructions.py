"""Instructions from the state of the pool. The pool executes a list of them in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instruction:
    """Base of all instructions."""


@dataclass(frozen=True, slots=True)
class Start(Instruction):
    """Start an actor that hosts these members.

    place: its bundle of the reservation; None: anywhere. stacked: as in `Prepare`. again: it replaces a lost actor.
    """

    actor: int
    members: tuple[str, ...]
    place: int | None
    stacked: bool | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Prepare(Instruction):
    """Set whether an actor stacks its members, or let it choose (None). The actor is up once this call returns."""

    actor: int
    stacked: bool | None


@dataclass(frozen=True, slots=True)
class Kill(Instruction):
    """Release an actor and its requests. hung: it may not react, so its node has to kill the process."""

    actor: int
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Ask(Instruction):
    """Request a piece from an actor.

    shares: the weights of its members; the weights of all present members sum to 1. ahead: the next pieces.
    """

    ask: int
    actor: int
    piece: int
    shares: Mapping[str, float]
    ahead: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Discard(Instruction):
    """Discard the answers to these requests, but report when each ends: until then the actor is busy."""

    asks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Release(Instruction):
    """Forget these requests and their answers."""

    asks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Check(Instruction):
    """Check the probe outputs of the present members (`orchestrator.teachers.checks`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Instruction):
    """Reduce the answers to a piece. whole: the part has only this piece; write it in the same job."""

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
    """Retry the job `failed` as `job`. why: for the log. cancel: the failed job still runs."""

    job: int
    failed: int
    why: str
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class Drop(Instruction):
    """Forget these jobs and their results."""

    jobs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish(Instruction):
    """Yield the part that the job wrote."""

    job: int
    part: int


@dataclass(frozen=True, slots=True)
class Note(Instruction):
    """Notify the observers of an action (`policy.Action`, `back` or `moves`), its members and its reason."""

    action: str
    members: tuple[str, ...]
    evidence: str


@dataclass(frozen=True, slots=True)
class Fail(Instruction):
    """End the run with this error. lists_free: its message lists the free resources of the cluster."""

    error: BaseException
    cause: BaseException | None = None
    lists_free: bool = False
