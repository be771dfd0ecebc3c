"""Parts of the store under way: which pieces are still to be answered, and what is being made of the answers.

Several answers are reduced and several parts written at a time, so that a pass is as fast as its teachers. A part is
made by one set of members: where the set changes before all pieces of a part are answered, the part begins anew.

What raises here is storage's doing and no teacher's: it is tried once more, and then ends the run. Answers that are
lost are for the pool to explain (`Unmade`).
"""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any

import ray

from orchestrator.cluster import errors
from workers import faults
from workers.errors import RunError
from workers.inference.reduce import Assembly, part_beside_teachers, reduced_beside_teachers
from workers.targets.soft_targets import Part, SoftTargets

logger = logging.getLogger(__name__)

GONE = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
"""How Ray says that a teacher's answer is no longer there."""
TRIES = 2
"""How often in all an answer is reduced or a part written, where that raises an exception, before the run ends."""
TIMEOUT_S = 120.0
"""After which another process is asked for what a Ray task does not make."""


class Unmade(Exception):
    """An answer that a Ray task needs is lost. The piece has to be answered again.

    answers: what the task was given, by the number of the slot; error: as Ray reports it.
    """

    def __init__(self, piece: int, answers: Mapping[int, Any], error: BaseException) -> None:
        super().__init__(f"piece {piece}")
        self.piece, self.answers, self.error = piece, answers, error


class Job:
    """One call of `Assembly` that is under way, in a thread of this process or as a Ray task.

    start: begins the call and returns a future or, of a Ray task, an object reference.
    """

    def __init__(self, start: Callable[[], Any], answers: Mapping[int, Any]) -> None:
        self.start, self.answers = start, answers
        self.tries = 0
        self.begin()

    def begin(self) -> None:
        """Call it, again where it failed."""
        self.tries += 1
        self._ask()

    def _ask(self) -> None:
        self.began_s, self.running = time.monotonic(), self.start()
        self.future: Future[Any] = self.running if isinstance(self.running, Future) else self.running.future()

    def hurry(self) -> None:
        """Ask another process where a Ray task takes too long."""
        if self.running is not self.future and time.monotonic() - self.began_s > TIMEOUT_S:
            logger.warning("soft targets were not written after %g s; another process is asked", TIMEOUT_S)
            ray.cancel(self.running, force=True)
            self._ask()


@dataclass
class PartUnderWay:
    """A part that is not written yet: what is known of each of its pieces."""

    number: int
    pieces: range
    members: list[str] = field(default_factory=list)
    """The members whose answers it is made of, once there are any."""
    reducing: dict[int, Job] = field(default_factory=dict)
    reduced: dict[int, SoftTargets] = field(default_factory=dict)
    writing: Job | None = None
    made: Part | None = None

    def unanswered(self) -> Iterator[int]:
        """The pieces that teachers still have to answer."""
        if self.writing is None and self.made is None:
            yield from (piece for piece in self.pieces if piece not in self.reducing and piece not in self.reduced)

    @property
    def jobs(self) -> list[Job]:
        return [*self.reducing.values(), *([self.writing] if self.writing else [])]


class Assembler:
    """Makes parts of the store, in order, from the answers that it is given; as long as the `with` block lasts."""

    def __init__(self, assembly: Assembly, parts: Iterable[int], near: bool, at_once: int) -> None:
        """near: answers are references, and Ray tasks reduce them where they are. at_once: jobs under way at most."""
        self.assembly, self.near, self.at_once = assembly, near, at_once
        self.following = iter(parts)
        self.parts: deque[PartUnderWay] = deque()
        self.threads = ThreadPoolExecutor(at_once, thread_name_prefix="assembly")

    def __enter__(self) -> Assembler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.threads.shutdown(cancel_futures=True)

    def unanswered(self, count: int) -> list[int]:
        """The next pieces, at most `count`, that teachers have to answer."""
        return list(islice(self._unanswered(), count))

    def _unanswered(self) -> Iterator[int]:
        for part in self.parts:
            yield from part.unanswered()
        for number in self.following:
            self.parts.append(PartUnderWay(number, self.assembly.layout.pieces(number)))
            yield from self.parts[-1].unanswered()

    @property
    def jobs(self) -> list[Job]:
        return [job for part in self.parts for job in part.jobs]

    @property
    def is_full(self) -> bool:
        """Whether something has to end before more is begun: parts behind a slow one do not go on for ever."""
        unanswered = (place for place, part in enumerate(self.parts) if any(True for _ in part.unanswered()))
        behind = next(unanswered, len(self.parts))
        return len(self.jobs) >= self.at_once or behind >= 2 * self.at_once

    @property
    def reducing(self) -> int:
        """Pieces whose answers are still held."""
        return sum(len(part.reducing) for part in self.parts)

    def begin(self, piece: int, members: Sequence[str], answers: Mapping[int, Any]) -> None:
        """Make something of all answers to a piece."""
        part = next(part for part in self.parts if piece in part.pieces)
        if part.members != list(members):
            part.members, part.reducing, part.reduced = list(members), {}, {}
        part.reducing[piece] = Job(self._reduction(part, list(answers.values())), answers)

    def _reduction(self, part: PartUnderWay, values: Sequence[Any]) -> Callable[[], Any]:
        assembly = self.assembly
        if not self.near:
            return lambda: self.threads.submit(assembly.reduce, *values)
        if len(part.pieces) == 1:  # what is large is written where it is
            members, task = part.members, assembly.task(part.number)
            return lambda: part_beside_teachers.remote(task, members, *values)
        return lambda: reduced_beside_teachers.remote(assembly.rule, *values)

    def wait(self, timeout_s: float) -> None:
        """Until a job has ended."""
        jobs = self.jobs
        for job in jobs:
            job.hurry()
        concurrent.futures.wait([job.future for job in jobs], timeout_s, concurrent.futures.FIRST_COMPLETED)

    def collect(self, used: Callable[[int], None]) -> None:
        """Take what has been made, and begin to write parts that are complete; `used` gets pieces that are reduced.

        Raises: `Unmade` where answers are lost; `RunError` where something cannot be made for another reason.
        """
        for part in self.parts:
            for piece, job in [*part.reducing.items()]:
                try:
                    found = _made(job, part.number)
                except GONE as error:
                    del part.reducing[piece]
                    raise Unmade(piece, job.answers, error) from error
                if found is None:
                    continue
                del part.reducing[piece]
                used(piece)
                if isinstance(found, Part):
                    part.made = found
                else:
                    part.reduced[piece] = found
            if part.made is None and part.writing is None and len(part.reduced) == len(part.pieces):
                self._write(part)
            if part.writing is not None and (written := _made(part.writing, part.number)) is not None:
                part.made, part.writing = written, None

    def _write(self, part: PartUnderWay) -> None:
        pieces, part.reduced = [part.reduced[piece] for piece in part.pieces], {}
        part.writing = Job(lambda: self.threads.submit(self.assembly.write, part.number, part.members, pieces), {})

    def finished(self) -> Iterator[Part]:
        """The parts that are written, in order."""
        while self.parts and self.parts[0].made is not None:
            made = self.parts.popleft().made
            assert made is not None
            yield made


def _made(job: Job, part: int) -> Any:
    """What a job of this part made; None where it is under way, perhaps for the second time.

    Raises: GONE where answers of a teacher are lost; `RunError` where it failed `TRIES` times.
    """
    if not job.future.done():
        return None
    error = job.future.exception()
    if error is None:
        return job.future.result()
    inner = errors.cause(error)
    if isinstance(inner, (*GONE, RunError)):
        raise inner
    raised = faults.fault(inner)
    if job.tries == TRIES:
        raise errors.failed(f"writing part {part} of the soft targets", raised) from raised
    logger.warning("writing part %d of the soft targets failed (%s); tried again", part, raised.headline)
    job.begin()
    return None
