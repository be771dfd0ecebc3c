"""What a pass promises, checked from the instructions alone.

Nothing here reads the state: members, attempts and what is new are counted again from events and instructions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.cluster.failures import MAX_ATTEMPTS
from orchestrator.teachers.instructions import Reduce
from tests.simulation.schedule import START_TIMEOUT_S, Schedule

IN_FLIGHT = 6
"""Pieces that are asked for and not yet reduced, at most."""


class Broken(AssertionError):
    """A promise that a schedule broke."""


def with_seed(error: BaseException, option: str, seed: int) -> Broken:
    """What went wrong, and the command that replays it."""
    what = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
    return Broken(f"{what}\nreplay: python -m tests.simulation {option} {seed}")


def expect(holds: bool, promise: str) -> None:
    if not holds:
        raise Broken(promise)


@dataclass
class SlotRecord:
    """What happened to one slot."""

    names: list[str]
    """Its members that are not left out."""
    losses: int = 0
    """Of its actors in a row, with no answer to anything new in between."""
    old: int = -1
    """The last piece that is not new."""
    failed_at: int | None = None
    repeated: bool = False
    """Whether the last loss was at the same piece as the one before."""

    def lose(self, at: int | None, asked: int) -> None:
        """at: the piece at which it failed, where that is known. asked: the last that it was asked for, of those whose
        answers are not used yet; -1 for none."""
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
        """Whether it was started again as often as is allowed."""
        return self.repeated or self.losses > MAX_ATTEMPTS


@dataclass
class Contribution:
    """What an actor answers for a piece: the share of each member, and whether it is right."""

    slot: int
    piece: int
    shares: dict[str, float]
    is_right: bool = True


@dataclass
class Promises:
    """Everything that is checked while a schedule runs, and at its end."""

    schedule: Schedule
    slots: list[SlotRecord] = field(init=False)
    finished: list[int] = field(default_factory=list)
    lost: bool = False
    """Whether a present teacher was lost."""
    job_reasons: bool = False
    """Whether storage gave a reason to end the run."""
    ended: bool = False
    """Whether there was an error about the run itself."""

    def __post_init__(self) -> None:
        self.slots = [SlotRecord(list(group)) for group in self.schedule.groups]

    def hold(self, pieces: int) -> None:
        """An actor holds so many pieces that are not used: some more where a part that begins anew returns its own."""
        most = IN_FLIGHT + max(len(part) for _, part in self.schedule.parts) - 1
        expect(pieces <= most, f"an actor holds {pieces} pieces; expected at most {most}")

    def reduce(self, wanted: Reduce, given: list[Contribution], up: list[bool]) -> dict[str, float]:
        """A piece is reduced from these answers while these slots' actors are up. Returns each member's share."""
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
        if not (total > 0 and exact):  # no text is made where nothing is wrong: this is where the time goes
            raise Broken(f"piece {wanted.piece} is made of shares {shares}, of weights {weights}")
        present = [name for slot, is_up in zip(self.slots, up, strict=True) if is_up for name in slot.names]
        if list(shares) != present:
            raise Broken(f"piece {wanted.piece} is made by {list(shares)}, and {present} are up")
        if self.schedule.policy != "reweight":
            expect(len(shares) == len(weights), f"`{self.schedule.policy}` went on with {list(shares)}")
        return shares

    def finish(self, part: int, content: dict[int, dict[str, float]], members: tuple[str, ...]) -> None:
        """A part is handed on, with this content of its pieces."""
        expected = [number for number, _ in self.schedule.parts]
        expect(len(self.finished) < len(expected), f"part {part} is one too many")
        expect(part == expected[len(self.finished)], f"part {part} is handed on after parts {self.finished}")
        pieces = next(pieces for number, pieces in self.schedule.parts if number == part)
        expect(list(content) == list(pieces), f"part {part} has pieces {list(content)}; expected {list(pieces)}")
        expect(all(tuple(each) == members for each in content.values()), f"part {part} is not made by {members} alone")
        self.finished.append(part)

    def start_again(self, slot: int, members: tuple[str, ...]) -> None:
        """An actor replaces one that is lost."""
        record, policy = self.slots[slot], self.schedule.policy
        expect(policy != "fail", "`fail` started an actor again")
        if list(members) != record.names:  # without those that are left out it is another process
            record.names, record.losses, record.repeated, record.failed_at = list(members), 0, False, None
        expect(not record.is_over, f"the actor of {record.names} is started more often than is allowed")

    def drop(self, slot: int, members: tuple[str, ...]) -> None:
        """Members are left out for good."""
        expect(self.schedule.policy == "reweight", f"`{self.schedule.policy}` left {members} out")
        self.slots[slot].names = [name for name in self.slots[slot].names if name not in members]
        self.slots[slot].losses, self.slots[slot].repeated, self.slots[slot].failed_at = 0, False, None

    def fail(self, message: str, present: list[str], starting_s: list[float]) -> None:
        """The run ends. present: members that answer, once the pass has begun. starting_s: since when actors start."""
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
        """A present teacher was lost, and the run failed or goes on."""
        expect(failed or self.schedule.policy != "fail", "`fail` goes on after a loss")

    def end(self, failed: bool, live: list[int]) -> None:
        """The pool is closed, and these actors are live."""
        expect(not live, f"actors {live} are not released")
        expected = [number for number, _ in self.schedule.parts]
        expect(failed or self.finished == expected, f"parts {self.finished} are handed on; expected {expected}")
