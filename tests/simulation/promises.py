"""The promises of a pass, checked from its instructions alone.

This module never reads the pool's state. It counts members, attempts and new pieces from events and instructions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.cluster.failures import MAX_ATTEMPTS
from orchestrator.teachers.instructions import Reduce
from tests.simulation.schedule import START_TIMEOUT_S, Schedule

IN_FLIGHT = 6
"""Maximal number of pieces that are requested and not yet reduced."""


class Broken(AssertionError):
    """A schedule broke a promise."""


def with_seed(error: BaseException, option: str, seed: int) -> Broken:
    """The error with the command that replays it."""
    what = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
    return Broken(f"{what}\nreplay: python -m tests.simulation {option} {seed}")


def expect(holds: bool, promise: str) -> None:
    if not holds:
        raise Broken(promise)


@dataclass
class SlotRecord:
    """The history of one slot."""

    names: list[str]
    """Its remaining members."""
    losses: int = 0
    """Number of consecutive losses of its actors without an answer to a new piece."""
    old: int = -1
    """The last piece that does not count as new."""
    failed_at: int | None = None
    repeated: bool = False
    """Whether the last two losses were at the same piece."""

    def lose(self, at: int | None, asked: int) -> None:
        """Record a loss. at: the piece at which the actor failed, if known. asked: the last requested piece with an
        unused answer; -1 for none."""
        self.repeated = at is not None and at == self.failed_at
        self.old = max(self.old, asked if at is None else at)
        self.failed_at = self.failed_at if at is None else at
        self.losses += 1

    def answer(self, piece: int) -> None:
        if self.failed_at is not None and piece >= self.failed_at:
            self.failed_at = None
        if piece > self.old:
            self.losses = 0

    @property
    def is_over(self) -> bool:
        """Whether no further restart is allowed."""
        return self.repeated or self.losses > MAX_ATTEMPTS


@dataclass
class Contribution:
    """An actor's answer for a piece: the share of each member, and whether it is correct."""

    slot: int
    piece: int
    shares: dict[str, float]
    is_right: bool = True


@dataclass
class Promises:
    """All checks during a schedule, and at its end."""

    schedule: Schedule
    slots: list[SlotRecord] = field(init=False)
    finished: list[int] = field(default_factory=list)
    lost: bool = False
    """Whether a present teacher was lost."""
    job_reasons: bool = False
    """Whether a failure of storage justifies the end of the run."""
    ended: bool = False
    """Whether an error concerned the run itself."""

    def __post_init__(self) -> None:
        self.slots = [SlotRecord(list(group)) for group in self.schedule.groups]

    def hold(self, pieces: int) -> None:
        """Check the number of an actor's unused pieces; it may exceed the limit after the restart of a part."""
        most = IN_FLIGHT + max(len(part) for _, part in self.schedule.parts) - 1
        expect(pieces <= most, f"an actor holds {pieces} pieces; expected at most {most}")

    def reduce(self, wanted: Reduce, given: list[Contribution], up: list[bool]) -> dict[str, float]:
        """Check the reduction of a piece. up: the slots with an actor that is up. Returns each member's share."""
        shares: dict[str, float] = {}
        for each in given:
            expect(each.is_right, f"piece {wanted.piece} is made of a wrong answer")
            expect(each.piece == wanted.piece, f"piece {wanted.piece} is made of answers to piece {each.piece}")
            expect(shares.keys().isdisjoint(each.shares), f"a member is twice in piece {wanted.piece}")
            shares |= each.shares
        expect(tuple(shares) == wanted.members, f"recorded {wanted.members}, made by {tuple(shares)}")
        weights = self.schedule.weights
        total = sum(weights[name] for name in shares)
        exact = all(abs(share * total - weights[name]) < 1e-9 for name, share in shares.items())
        if not (total > 0 and exact):  # formats the message only on failure, for speed
            raise Broken(f"piece {wanted.piece} is made of shares {shares}, of weights {weights}")
        present = [name for slot, is_up in zip(self.slots, up, strict=True) if is_up for name in slot.names]
        if list(shares) != present:
            raise Broken(f"piece {wanted.piece} is made by {list(shares)}, and {present} are up")
        if self.schedule.policy != "reweight":
            expect(len(shares) == len(weights), f"`{self.schedule.policy}` went on with {list(shares)}")
        return shares

    def finish(self, part: int, content: dict[int, dict[str, float]], members: tuple[str, ...]) -> None:
        """Check a finished part with this content of its pieces."""
        expected = [number for number, _ in self.schedule.parts]
        expect(len(self.finished) < len(expected), f"part {part} is one too many")
        expect(part == expected[len(self.finished)], f"part {part} is handed on after parts {self.finished}")
        pieces = next(pieces for number, pieces in self.schedule.parts if number == part)
        expect(list(content) == list(pieces), f"part {part} has pieces {list(content)}; expected {list(pieces)}")
        expect(all(tuple(each) == members for each in content.values()), f"part {part} is not made by {members} alone")
        self.finished.append(part)

    def start_again(self, slot: int, members: tuple[str, ...]) -> None:
        """Check the restart of a lost actor."""
        record, policy = self.slots[slot], self.schedule.policy
        expect(policy != "fail", "`fail` started an actor again")
        if list(members) != record.names:  # with fewer members the restarts count anew
            record.names, record.losses, record.repeated, record.failed_at = list(members), 0, False, None
        expect(not record.is_over, f"the actor of {record.names} is started more often than is allowed")

    def drop(self, slot: int, members: tuple[str, ...]) -> None:
        """Check the permanent exclusion of members."""
        expect(self.schedule.policy == "reweight", f"`{self.schedule.policy}` left {members} out")
        self.slots[slot].names = [name for name in self.slots[slot].names if name not in members]
        self.slots[slot].losses, self.slots[slot].repeated, self.slots[slot].failed_at = 0, False, None

    def fail(self, message: str, present: list[str], starting_s: list[float]) -> None:
        """Check why a run failed. present: live members during the pass. starting_s: waiting times for actors."""
        if "was not up" in message:
            expect(any(s > START_TIMEOUT_S for s in starting_s), f"nothing is late: {message}")
            could = self.schedule.policy == "reweight" and any(self.schedule.weights[name] > 0 for name in present)
            expect(not could, f"{present} could go on: {message}")
        elif "was lost" in message:
            self._check_given_up(message)
        elif "writing part" in message:
            expect(self.job_reasons, f"storage did not fail: {message}")
        else:
            expect(self.ended, f"no reason to end the run: {message}")

    def _check_given_up(self, message: str) -> None:
        expect(self.lost, f"nothing is lost: {message}")
        if self.schedule.policy == "fail":
            return
        named = message.removeprefix("the teacher of ").split(" was lost")[0].split(", ")
        of = next(slot for slot in self.slots if named[0] in slot.names)
        expect(of.is_over, f"may still be started again: {message}")
        if self.schedule.policy == "reweight":
            others = [name for slot in self.slots for name in slot.names if name not in named]
            expect(not any(self.schedule.weights[name] > 0 for name in others), f"{others} could go on: {message}")

    def check_loss(self, failed: bool) -> None:
        """Check the reaction to the loss of a present teacher: the run failed or continues."""
        expect(failed or self.schedule.policy != "fail", "`fail` goes on after a loss")

    def end(self, failed: bool, live: list[int]) -> None:
        """Check a closed pool. live: the actors that still exist."""
        expect(not live, f"actors {live} are not released")
        expected = [number for number, _ in self.schedule.parts]
        expect(failed or self.finished == expected, f"parts {self.finished} are handed on; expected {expected}")
