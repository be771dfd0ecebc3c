"""Tracks parts of the store in progress: the unanswered pieces, and the jobs that process answers. Pure.

Several jobs reduce answers and write parts concurrently, so that the teachers limit the speed of a pass. A part has a
single set of members: if the set changes before all its pieces are answered, the part starts over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

TRIES = 2
"""Most attempts of a job that raises, before the run ends."""


@dataclass(slots=True)
class Job:
    """A reduction of a piece, or the writing of a part (piece None).

    asks: its requests, by the number of the slot.
    """

    number: int
    part: PartUnderWay
    piece: int | None
    asks: Mapping[int, int]
    began_s: float
    tries: int = 1
    late: int = 0
    """How often it exceeded its timeout."""


@dataclass(slots=True)
class PartUnderWay:
    """A part that the pool has not yielded yet, with the state of each of its pieces."""

    number: int
    pieces: range
    members: tuple[str, ...] = ()
    """The members whose answers it uses; empty before the first answer."""
    reducing: dict[int, Job] = field(default_factory=dict)
    reduced: dict[int, int] = field(default_factory=dict)
    """The job that reduced each piece."""
    writing: Job | None = None
    made: int | None = None
    """The job that wrote it."""

    def unanswered(self) -> Iterator[int]:
        """The pieces that teachers still have to answer."""
        if self.writing is None and self.made is None:
            yield from (piece for piece in self.pieces if piece not in self.reducing and piece not in self.reduced)

    @property
    def is_reduced(self) -> bool:
        return len(self.reduced) == len(self.pieces)

    def begin_anew(self, members: tuple[str, ...]) -> list[int]:
        """Start over with the answers of these members. Returns the jobs that have become obsolete."""
        dropped = [*(job.number for job in self.reducing.values()), *self.reduced.values()]
        self.members, self.reducing, self.reduced = members, {}, {}
        return dropped


class Parts:
    """The parts of a pass, in their order, and the running jobs."""

    def __init__(self, parts: Sequence[tuple[int, range]], at_once: int) -> None:
        """parts: the number and the pieces of each. at_once: most concurrent jobs."""
        self.at_once = at_once
        self.following = iter(parts)
        self.under_way: deque[PartUnderWay] = deque()
        self.jobs: dict[int, Job] = {}

    def unanswered(self, count: int) -> list[int]:
        """The next pieces, at most `count`, that teachers have to answer."""
        return list(islice(self._unanswered(), count))

    def _unanswered(self) -> Iterator[int]:
        for part in self.under_way:
            yield from part.unanswered()
        for number, pieces in self.following:
            self.under_way.append(PartUnderWay(number, pieces))
            yield from pieces

    @property
    def is_full(self) -> bool:
        """Whether a job has to end before another begins. It also limits how far parts can overtake a slow one."""
        if len(self.jobs) >= self.at_once:
            return True
        open_parts = (place for place, part in enumerate(self.under_way) if any(True for _ in part.unanswered()))
        return next(open_parts, len(self.under_way)) >= 2 * self.at_once

    @property
    def reducing(self) -> int:
        """Pieces whose answers are still held."""
        return sum(len(part.reducing) for part in self.under_way)

    def part_of(self, piece: int) -> PartUnderWay:
        return next(part for part in self.under_way if piece in part.pieces)

    def begin(self, job: Job, members: tuple[str, ...]) -> list[int]:
        """Begin to reduce a piece that these members have answered. Returns the jobs that have become obsolete."""
        part, dropped = job.part, []
        if part.members != members:
            dropped = part.begin_anew(members)
            for number in dropped:
                self.jobs.pop(number, None)
        assert job.piece is not None
        part.reducing[job.piece] = self.jobs[job.number] = job
        return dropped

    def reduced(self, job: Job) -> None:
        """Record that a job has reduced a piece."""
        assert job.piece is not None
        del self.jobs[job.number], job.part.reducing[job.piece]
        job.part.reduced[job.piece] = job.number

    def write(self, job: Job) -> tuple[int, ...]:
        """Begin to write a part. Returns the jobs that reduced its pieces, in their order."""
        part = job.part
        pieces = tuple(part.reduced[piece] for piece in part.pieces)
        part.reduced, part.writing = {}, job
        self.jobs[job.number] = job
        return pieces

    def written(self, job: Job) -> None:
        """Record that a job has written a part, from reduced pieces or from answers."""
        part = job.part
        del self.jobs[job.number]
        part.made, part.writing, part.reducing = job.number, None, {}

    def unreduced(self, job: Job) -> None:
        """Record that a job lost its answers: the teachers have to answer its piece again."""
        assert job.piece is not None
        del self.jobs[job.number], job.part.reducing[job.piece]

    def retry(self, job: Job, number: int, now_s: float) -> None:
        """Retry a job under another number."""
        del self.jobs[job.number]
        job.number, job.began_s = number, now_s
        self.jobs[number] = job

    def finished(self) -> Iterator[tuple[int, int]]:
        """Remove and yield the written parts, in order: the number of each and its job."""
        while self.under_way and (made := self.under_way[0].made) is not None:
            yield self.under_way.popleft().number, made

    @property
    def is_done(self) -> bool:
        """Whether the pool has yielded every part."""
        return not self.unanswered(1) and not self.under_way
