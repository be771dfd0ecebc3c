"""One teacher's slot in the pool: the actor in it, what it was asked, and how long it may take to answer. Pure.

A slot outlives its actors. It may be empty for a while, with another actor on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

PATIENCE_S, PATIENCE = 30.0, 10.0
"""A teacher that does not answer is hung after so long, and after so many times the longest that it ever took."""


@dataclass(slots=True)
class Actor:
    """An actor, from its start on."""

    number: int
    asked_s: float
    """When it was started, or prepared anew."""
    is_up: bool = False
    node: str = ""
    stacked: bool = False


@dataclass(slots=True)
class ActorSlot:
    """`names`: the members that its actor is asked for. place: its bundle of the reservation."""

    place: int
    names: list[str]
    actor: Actor | None = None
    """None where the slot is given up."""
    successor: Actor | None = None
    """On its way to take over, since the node of `actor` is about to go."""
    stays: bool = False
    """Whether no other successor is started."""
    away: bool = False
    """Whether the pool goes on without it."""
    asked: dict[int, int] = field(default_factory=dict)
    """The ask of each piece whose answer is to be used."""
    answered: set[int] = field(default_factory=set)
    """The pieces of `asked` whose answers are there."""
    outdated: set[int] = field(default_factory=set)
    """Asks whose answers are discarded, while the actor still computes them."""
    attempts: int = 0
    """How often in a row it was started again, without an answer to anything new since."""
    stuck: int = -1
    """The piece that it failed at when it was lost, or the last that it had been asked for: what comes later is new."""
    failed_at: int | None = None
    """The piece at which it raised an exception or answered wrongly when it was last lost, or `faults.START`."""
    slowest_s: float = 0.0
    """The longest that the pool waited for an answer; before the first, what the actor measured as it started."""
    since_s: float = 0.0
    """When it last gave a sign of life, or was asked anew."""

    @property
    def is_up(self) -> bool:
        return self.actor is not None and self.actor.is_up

    @property
    def node(self) -> str:
        """Where its actor is; empty until it is up."""
        return self.actor.node if self.is_up and self.actor is not None else ""

    @property
    def patience_s(self) -> float:
        """How long the next answer may take."""
        return max(PATIENCE_S, PATIENCE * self.slowest_s)

    def take_answer(self, piece: int, waited_s: float, now_s: float) -> None:
        """An answer is there, after the pool waited for it so long."""
        self.answered.add(piece)
        self.since_s, self.slowest_s = now_s, max(self.slowest_s, waited_s)
        if self.failed_at is not None and piece >= self.failed_at:
            self.failed_at = None
        if piece > self.stuck:
            self.attempts = 0

    def note_failure(self, at: int | None) -> None:
        """Remember where it was lost. at: the piece that it failed at; None where any that it was asked may have it."""
        self.stuck = max(self.stuck, at) if at is not None else max([self.stuck, *self.asked])
        self.failed_at = self.failed_at if at is None else at

    def leave_out(self, names: Sequence[str]) -> None:
        """Go on without these members; what they had failed at says nothing of the others."""
        self.names = [name for name in self.names if name not in names]
        self.attempts, self.failed_at = 0, None

    def take_asks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Forget what it was asked. Returns the asks that are answered, and those that the actor still computes."""
        done = tuple(self.asked[piece] for piece in self.asked if piece in self.answered)
        computing = tuple(self.asked[piece] for piece in self.asked if piece not in self.answered)
        self.asked.clear()
        self.answered.clear()
        return done, computing
