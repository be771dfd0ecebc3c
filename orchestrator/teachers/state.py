"""The state of the pool of teachers: `handle(event)` returns instructions. No Ray, no clock, no threads.

The pool requests every piece of a part from every actor, which answers with the sum of its members' contributions. A
few pieces are in flight, so that no teacher waits for the driver; their number is limited, so that memory stays flat.
`membership` tracks actors and `parts` tracks pieces; this file joins the two. `orchestrator.teachers.pool` executes the
instructions on Ray, `tests.simulation` on a simulated cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.teachers.events import (
    Answered,
    AnswersLost,
    Close,
    Ended,
    Event,
    Leaving,
    Lost,
    Made,
    Open,
    Raised,
    Stream,
    Tick,
    Up,
)
from orchestrator.teachers.instructions import Ask, Drop, Fail, Finish, Instruction, Reduce, Retry, Write
from orchestrator.teachers.membership import Membership, Rules
from orchestrator.teachers.parts import TRIES, Job, Parts
from orchestrator.teachers.policy import Kind
from orchestrator.teachers.slot import ActorSlot

IN_FLIGHT = 6
"""Pieces that are requested and not yet reduced, and so the maximum lead of a teacher over the driver."""
AHEAD = 16
"""Further pieces that a request announces, since a teacher may compute several together."""
TASK_TIMEOUT_S = 120.0
"""Timeout of a Ray task, after which the pool retries it in another process. It doubles with each retry of a job, so
that one that takes longer ends as well."""


class PoolState:
    """One pool, from `Open` to `Close`. After an instruction `Fail`, only `Close` has an effect."""

    def __init__(
        self,
        groups: Iterable[Sequence[str]],
        weights: Mapping[str, float],
        rules: Rules,
        stacked: bool | None = None,
    ) -> None:
        """groups: the members of each actor. weights: of all members. stacked: see `Membership`."""
        self.out: list[Instruction] = []
        self.membership = Membership(groups, weights, rules, stacked, self.out)
        self.work: Parts | None = None
        self.reduces_on_workers = False
        self.head: int | None = None
        """The piece whose answers the pool waits for."""
        self.head_since_s = 0.0
        self.over = False

    def handle(self, event: Event) -> list[Instruction]:
        """Handle an event. Returns instructions, in order."""
        if self.over and type(event) is not Close:
            return []
        _HANDLERS[type(event)](self, event)
        self.over = self.over or self._has_failed()
        if not self.over and (self.out or type(event) not in _QUIET or self._is_answered(self.head)):
            self._go_on(event.now_s)
        out = self.out[:]
        self.out.clear()
        return out

    def _has_failed(self) -> bool:
        return bool(self.out) and type(self.out[-1]) is Fail

    def _is_answered(self, piece: int | None) -> bool:
        """Whether every present slot has answered a piece."""
        return all(slot.away or piece in slot.answered for slot in self.membership.slots)

    @property
    def is_open(self) -> bool:
        """Whether all required actors are up."""
        return self.membership.is_open

    @property
    def is_done(self) -> bool:
        """Whether the pool has yielded every part of the stream."""
        return self.work is not None and self.work.is_done

    def awaited(self) -> list[int]:
        """The unanswered requests for the piece at the head."""
        head = self.head
        if head is None:
            return []
        present = self.membership.present()
        return [slot.asked[head] for slot in present if head in slot.asked and head not in slot.answered]

    # Events

    def _open(self, event: Open) -> None:
        self.membership.open(event.now_s)

    def _stream(self, event: Stream) -> None:
        self.membership.ask_anew(event.now_s)
        self.work, self.head = Parts(event.parts, event.at_once), None
        self.reduces_on_workers = event.reduces_on_workers

    def _close(self, event: Close) -> None:
        self.over = True
        self.membership.close()

    def _tick(self, event: Tick) -> None:
        self._check_tasks(event.now_s)
        self._check_answers(event.now_s)
        if not self._has_failed():
            self.membership.check_starts(event.now_s)

    def _leaving(self, event: Leaving) -> None:
        if self.work is not None:
            self.membership.leaving(event)

    def _up(self, event: Up) -> None:
        self.membership.up(event)

    def _lost(self, event: Lost) -> None:
        self.membership.lost(event)

    def _answered(self, event: Answered) -> None:
        if event.ask not in self.membership.of_ask:
            return
        slot, piece = self.membership.of_ask[event.ask]
        if event.ask in slot.outdated:  # only a sign of life
            del self.membership.of_ask[event.ask]
            slot.outdated.remove(event.ask)
            slot.since_s = event.now_s
        elif event.wrong:
            self._lost(self._loss(slot, Kind.WRONG, event.wrong, event.now_s, piece))
        else:
            waited_s = event.now_s - max(slot.since_s, self.head_since_s)
            slot.take_answer(piece, max(0.0, waited_s), event.now_s)

    def _made(self, event: Made) -> None:
        work = self.work
        if work is None or event.job not in work.jobs:
            return
        job = work.jobs[event.job]
        if job.piece is not None:
            self._release(job.piece)
        if job.piece is None or self._is_whole(job):
            work.written(job)
            self.out.extend(Finish(made, part) for part, made in work.finished())
            return
        work.reduced(job)
        if job.part.is_reduced:
            writing = Job(next(self.membership.numbers), job.part, None, {}, event.now_s)
            self.out.append(Write(writing.number, job.part.number, job.part.members, work.write(writing)))

    def _raised(self, event: Raised) -> None:
        if self.work is None or event.job not in self.work.jobs:
            return
        job = self.work.jobs[event.job]
        if event.final or job.tries == TRIES:
            self.out.append(Fail(event.error, event.cause))
            return
        job.tries += 1
        part = job.part.number
        why = f"writing part {part} of the soft targets failed ({event.headline}); tried again"
        self._retry(job, event.now_s, why)

    def _answers_lost(self, event: AnswersLost) -> None:
        """Find the actor whose answer is lost. If an answer was replaced meanwhile, request the piece again."""
        if self.work is None or event.job not in self.work.jobs:
            return
        job = self.work.jobs[event.job]
        assert job.piece is not None
        self.work.unreduced(job)
        slots = [(self.membership.slots[place], ask) for place, ask in job.asks.items()]
        held = [(slot, ask) for slot, ask in slots if slot.asked.get(job.piece) == ask]
        for slot, ask in held:
            if ask == event.ask and slot.actor is not None:
                self._lost(Lost(event.now_s, slot.actor.number, Kind.DIED, event.evidence, cause=event.cause))
                return
        if len(held) == len(slots):
            self.out.append(Fail(event.error, event.cause))

    def _ended(self, event: Ended) -> None:
        self.out.append(Fail(event.error, event.cause))

    # What follows

    def _go_on(self, now_s: float) -> None:
        """Reduce every piece that all actors have answered, and request the next ones."""
        if not self.membership.is_open:
            self.membership.settle(now_s)
        work = self.work
        while work is not None and self.membership.counts():
            window = work.unanswered(IN_FLIGHT + AHEAD)
            if not window or work.is_full:
                break
            present = self.membership.present()
            self._ask(present, window, max(1, IN_FLIGHT - work.reducing))
            if window[0] != self.head:
                self.head, self.head_since_s = window[0], now_s
            if not self._is_answered(self.head):
                return
            self._reduce(work, self.head, present, now_s)
        self.head = None

    def _ask(self, present: Sequence[ActorSlot], window: Sequence[int], most: int) -> None:
        """Request the first pieces of the window, and announce the others."""
        for slot in present:
            actor = slot.actor
            if actor is None or not actor.is_up:
                continue
            for place, piece in enumerate(window[:most], 1):
                if piece not in slot.asked:
                    number = slot.asked[piece] = next(self.membership.numbers)
                    self.membership.of_ask[number] = (slot, piece)
                    shares = self.membership.shares_of(slot)
                    self.out.append(Ask(number, actor.number, piece, shares, tuple(window[place:])))

    def _reduce(self, work: Parts, piece: int, present: Sequence[ActorSlot], now_s: float) -> None:
        asks = {slot.place: slot.asked[piece] for slot in present}
        job = Job(next(self.membership.numbers), work.part_of(piece), piece, asks, now_s)
        members = self.membership.members()
        if dropped := work.begin(job, members):
            self.out.append(Drop(tuple(dropped)))
        self.out.append(
            Reduce(
                job=job.number,
                part=job.part.number,
                piece=piece,
                members=members,
                asks=tuple(asks.values()),
                whole=self._is_whole(job),
            )
        )

    def _is_whole(self, job: Job) -> bool:
        """Whether a single job makes the part: large answers are reduced and written on their node."""
        return self.reduces_on_workers and len(job.part.pieces) == 1

    def _retry(self, job: Job, now_s: float, why: str, cancel: bool = False) -> None:
        assert self.work is not None
        failed = job.number
        self.work.retry(job, next(self.membership.numbers), now_s)
        self.out.append(Retry(job.number, failed, why, cancel))

    def _release(self, piece: int) -> None:
        """Forget the answers to a reduced piece."""
        for slot in self.membership.slots:
            if piece in slot.asked:
                slot.answered.discard(piece)
                self.membership.release((slot.asked.pop(piece),))

    def _check_tasks(self, now_s: float) -> None:
        """Retry Ray tasks that exceed the timeout."""
        for job in [*self.work.jobs.values()] if self.work is not None and self.reduces_on_workers else ():
            timeout_s = TASK_TIMEOUT_S * 2**job.late
            if job.piece is not None and now_s - job.began_s > timeout_s:
                job.late += 1
                why = f"soft targets were not written after {timeout_s:g} s; another process is asked"
                self._retry(job, now_s, why, cancel=True)

    def _check_answers(self, now_s: float) -> None:
        """Declare an actor lost if it does not answer the piece at the head in time."""
        head = self.head
        for slot in self.membership.present() if head is not None else ():
            waited_s = now_s - max(slot.since_s, self.head_since_s)
            if slot.is_up and head in slot.asked and head not in slot.answered and waited_s > slot.patience_s:
                evidence = f"no answer for {waited_s:.0f} s; its slowest took {slot.slowest_s:.1f} s"
                self._lost(self._loss(slot, Kind.HUNG, evidence, now_s))
                return

    def _loss(self, slot: ActorSlot, kind: Kind, evidence: str, now_s: float, at: int | None = None) -> Lost:
        assert slot.actor is not None and self.work is not None
        part = None if at is None else self.work.part_of(at).number
        return Lost(now_s, slot.actor.number, kind, evidence, at=at, part=part)


_QUIET = frozenset({Answered, Tick})
"""Events without further effect, unless they led to an instruction or completed the answers to the head."""
_HANDLERS: dict[type[Event], Callable[[PoolState, Any], None]] = {
    Open: PoolState._open,
    Stream: PoolState._stream,
    Close: PoolState._close,
    Tick: PoolState._tick,
    Leaving: PoolState._leaving,
    Up: PoolState._up,
    Lost: PoolState._lost,
    Answered: PoolState._answered,
    Made: PoolState._made,
    Raised: PoolState._raised,
    AnswersLost: PoolState._answers_lost,
    Ended: PoolState._ended,
}
