"""One teacher's slot in the pool: its actor, the actor's requests, and the timeout for answers. Pure.

A slot outlives its actors. It may be empty for a while, until another actor has started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

PATIENCE_S, PATIENCE = 30.0, 10.0
"""A teacher counts as hung after this time without an answer, and after this multiple of its slowest answer."""


@dataclass(slots=True)
class Actor:
    """An actor, from its start on."""

    number: int
    asked_s: float
    """When it was started, or last prepared."""
    is_up: bool = False
    node: str = ""
    stacked: bool = False


@dataclass(slots=True)
class ActorSlot:
    """names: the members requested from its actor. place: its bundle of the reservation."""

    place: int
    names: list[str]
    actor: Actor | None = None
    """None where the slot is given up."""
    successor: Actor | None = None
    """Replaces `actor`, whose node will go away; still starting."""
    stays: bool = False
    """Whether the pool starts no further successor."""
    away: bool = False
    """Whether the pool continues without it."""
    asked: dict[int, int] = field(default_factory=dict)
    """The current request for each piece."""
    answered: set[int] = field(default_factory=set)
    """The pieces of `asked` whose answers have arrived."""
    outdated: set[int] = field(default_factory=set)
    """Discarded requests that the actor is still computing."""
    attempts: int = 0
    """Consecutive restarts without an answer to a new piece."""
    stuck: int = -1
    """The piece at which it was lost, or the last requested one; only later pieces count as progress."""
    failed_at: int | None = None
    """The piece at which it last raised an exception or answered wrongly, or `faults.START`."""
    slowest_s: float = 0.0
    """The longest wait for an answer; before the first, the actor's own estimate at its start."""
    since_s: float = 0.0
    """Time of its last sign of life, or of the last repeated requests."""

    @property
    def is_up(self) -> bool:
        return self.actor is not None and self.actor.is_up

    @property
    def node(self) -> str:
        """The node of its actor; empty until it is up."""
        return self.actor.node if self.is_up and self.actor is not None else ""

    @property
    def patience_s(self) -> float:
        """How long the next answer may take."""
        return max(PATIENCE_S, PATIENCE * self.slowest_s)

    def take_answer(self, piece: int, waited_s: float, now_s: float) -> None:
        """Record an answer for which the pool waited `waited_s`."""
        self.answered.add(piece)
        self.since_s, self.slowest_s = now_s, max(self.slowest_s, waited_s)
        if self.failed_at is not None and piece >= self.failed_at:
            self.failed_at = None
        if piece > self.stuck:
            self.attempts = 0

    def note_failure(self, at: int | None) -> None:
        """Record a loss. at: the piece at which it failed; None if any requested piece may be the cause."""
        self.stuck = max(self.stuck, at) if at is not None else max([self.stuck, *self.asked])
        self.failed_at = self.failed_at if at is None else at

    def leave_out(self, names: Sequence[str]) -> None:
        """Continue without these members, and reset the failures, which do not concern the others."""
        self.names = [name for name in self.names if name not in names]
        self.attempts, self.failed_at = 0, None

    def take_asks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Forget all requests. Returns the answered ones, and those that the actor is still computing."""
        done = tuple(self.asked[piece] for piece in self.asked if piece in self.answered)
        computing = tuple(self.asked[piece] for piece in self.asked if piece not in self.answered)
        self.asked.clear()
        self.answered.clear()
        return done, computing
