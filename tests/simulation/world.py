"""A simulated cluster around the state of a pool: its clock, its teachers and its storage.

The world executes instructions like Ray, at simulated times, and sends the resulting events to the state: late, after
the end of an actor or job, or never. It only knows the state's instructions, not the state itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any

from orchestrator.teachers import instructions as wanted
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
from orchestrator.teachers.instructions import Instruction
from orchestrator.teachers.membership import Rules
from orchestrator.teachers.policy import Kind
from orchestrator.teachers.slot import PATIENCE_S
from orchestrator.teachers.state import PoolState
from tests.simulation.promises import Broken, Contribution, Promises, expect
from tests.simulation.schedule import START_TIMEOUT_S, Schedule
from workers.errors import RunError
from workers.faults import START

MOST_SECONDS, MOST_EVENTS = 5000.0, 5000
"""Limits beyond which a schedule counts as a deadlock."""
TASK_S = 0.3
"""Typical duration of a job."""


@dataclass(slots=True)
class SimulatedActor:
    """An actor that has not been released."""

    number: int
    slot: int
    members: tuple[str, ...]
    node: str
    asked_s: float
    is_up: bool = False
    """Whether the state was informed that the actor is up."""
    prepared: int = 0
    """Number of preparations; events of earlier ones are ignored."""
    stacked: bool = False
    is_dead: bool = False
    is_hung: bool = False
    heard_s: float = 0.0
    """Time of its last answer."""
    free_s: float = 0.0
    """Time at which it has completed all its requests."""


@dataclass(slots=True)
class SimulatedAsk:
    actor: SimulatedActor
    content: Contribution
    asked_s: float
    is_outdated: bool = False


@dataclass(slots=True)
class SimulatedJob:
    """A job. content: the shares by piece that it computes or writes. part: the number of its part."""

    part: int
    content: dict[int, dict[str, float]]
    asks: tuple[int, ...]
    members: tuple[str, ...]
    writes: bool
    fault: str
    attempt: int = 0


@dataclass
class World:
    schedule: Schedule
    trace: Callable[[str], None] | None = None
    now_s: float = 0.0
    queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    actors: dict[int, SimulatedActor] = field(default_factory=dict)
    in_slot: dict[int, SimulatedActor] = field(default_factory=dict)
    """The actor of each slot."""
    successors: dict[int, SimulatedActor] = field(default_factory=dict)
    asks: dict[int, SimulatedAsk] = field(default_factory=dict)
    lost_answers: set[int] = field(default_factory=set)
    """Requests whose answers were lost, so that no job can read them."""
    jobs: dict[int, SimulatedJob] = field(default_factory=dict)
    made: dict[int, SimulatedJob] = field(default_factory=dict)
    stored: dict[int, list[tuple[tuple[str, ...], dict[int, dict[str, float]]]]] = field(default_factory=dict)
    """The files of each part: the recorded members, and the content."""
    starts: dict[int, int] = field(default_factory=dict)
    begun: int = 0
    """Number of started jobs."""
    events: int = 0
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        schedule = self.schedule
        self.random = Random(schedule.seed + 0.5).random
        rules = Rules(schedule.policy, START_TIMEOUT_S)
        self.state = PoolState(schedule.groups, schedule.weights, rules, schedule.stacked)
        self.promises = Promises(schedule)
        self.start_faults = {(slot, n): how for slot, n, how in schedule.starts}
        self.streaming = False

    def run(self) -> None:
        """Run the whole schedule, until the pool is closed. Raises: `Broken` for a broken promise."""
        self.tell(Open(0.0))
        for at_s, what, slot in self.schedule.moments:
            self.later(at_s, _MOMENTS[what], self, slot)
        while self.failure is None and not self.state.is_done:
            if not self.streaming and self.state.is_open:
                self.streaming = True
                self.tell(Stream(self.now_s, self.schedule.parts, self.schedule.on_workers, self.schedule.at_once))
                continue
            self.step()
        self.tell(Close(self.now_s))
        self.promises.end(self.failure is not None, list(self.actors))

    def step(self) -> None:
        """Process the next event, or advance the time by a few seconds without one."""
        self.events += 1
        if self.now_s > MOST_SECONDS or self.events > MOST_EVENTS:
            raise Broken(f"deadlock: nothing ends after {self.now_s:.0f} s and {self.events} events")
        idle_s = self.now_s + 1.0 + 7.0 * self.random()
        if not self.queue or self.queue[0][0] > idle_s:
            self.now_s = idle_s
            self.tell(Tick(idle_s))
            return
        self.now_s, _, call, arguments = heappop(self.queue)
        call(*arguments)

    def later(self, at_s: float, call: Callable[..., None], *arguments: Any) -> None:
        self.events += 1
        heappush(self.queue, (at_s, self.events, call, arguments))

    def soon(self) -> float:
        """A random time in the near future, at which an event is reported."""
        r = self.random()
        return self.now_s + (0.05 * r if r < 0.8 else 3.0 * r)

    def tell(self, event: Event) -> None:
        if self.trace is not None:
            self.trace(f"{self.now_s:9.2f}  {event}")
        for instruction in self.state.handle(event):
            if self.trace is not None:
                self.trace(f"{'':9}      -> {instruction}")
            _EXECUTE[type(instruction)](self, instruction)

    # Instructions about actors

    def start(self, i: wanted.Start) -> None:
        slot = next(n for n, group in enumerate(self.schedule.groups) if i.members[0] in group)
        expect(i.actor not in self.actors, f"actor {i.actor} is started twice")
        if i.place is None:
            expect(slot in self.in_slot and slot not in self.successors, f"slot {slot} has a successor too many")
            node = f"other {i.actor}"
        else:
            expect(i.place == slot and slot not in self.in_slot, f"bundle {i.place} is given to two actors")
            node = f"node {slot}"
        actor = SimulatedActor(i.actor, slot, i.members, node, self.now_s)
        self.actors[i.actor] = actor
        (self.successors if i.place is None else self.in_slot)[slot] = actor
        if i.again:
            self.promises.start_again(slot, i.members)
        count = self.starts[slot] = self.starts.get(slot, -1) + 1
        self._begin_start(actor, i.stacked, self.start_faults.get((slot, count), ""))

    def prepare(self, i: wanted.Prepare) -> None:
        self._begin_start(self.actors[i.actor], i.stacked, "")

    def _begin_start(self, actor: SimulatedActor, stacked: bool | None, fault: str) -> None:
        actor.prepared += 1
        actor.is_up, actor.asked_s = False, self.now_s
        actor.stacked = self.random() < 0.8 if stacked is None else stacked
        at_s = self.now_s + 0.5 + 3.0 * self.random()
        if fault == "never":
            return
        if fault in ("raise", "die"):
            kind, at = (Kind.FAILED, START) if fault == "raise" else (Kind.DIED, None)
            self.later(at_s, self.end_of_start, actor, actor.prepared, kind, at)
            return
        self.later(at_s + 40.0 * self.random() * (fault == "slow"), self.up, actor, actor.prepared)

    def up(self, actor: SimulatedActor, prepared: int) -> None:
        if actor.number not in self.actors or actor.prepared != prepared or actor.is_hung:
            return
        if actor.is_dead:
            self.lose(actor, Kind.DIED, None)
            return
        actor.is_up = True
        if self.successors.get(actor.slot) is actor:
            old = self.in_slot[actor.slot]
            self.in_slot[actor.slot] = self.successors.pop(actor.slot)
            self.tell(Up(self.now_s, actor.number, actor.node, actor.stacked, 0.5))
            expect(old.number not in self.actors, f"actor {old.number} stays beside its successor")
            return
        self.tell(Up(self.now_s, actor.number, actor.node, actor.stacked, 0.5))

    def end_of_start(self, actor: SimulatedActor, prepared: int, kind: Kind, at: int | None) -> None:
        if actor.number in self.actors and actor.prepared == prepared:
            self.lose(actor, kind, at)

    def kill(self, i: wanted.Kill) -> None:
        expect(i.actor in self.actors, f"actor {i.actor} is released twice")
        actor = self.actors.pop(i.actor)
        for of_slot in (self.in_slot, self.successors):
            if of_slot.get(actor.slot) is actor:
                del of_slot[actor.slot]
        self.asks = {number: ask for number, ask in self.asks.items() if ask.actor is not actor}

    def check(self, i: wanted.Check) -> None:
        pass

    def note(self, i: wanted.Note) -> None:
        slot = next(n for n, record in enumerate(self.promises.slots) if i.members[0] in record.names)
        if i.evidence.startswith("no answer"):
            self._note_hung(self.in_slot[slot])
        if i.action == "drop":
            self.promises.drop(slot, i.members)

    def _note_hung(self, actor: SimulatedActor) -> None:
        """Check an actor that the state considers hung, since no event reports this."""
        waiting = [ask.asked_s for ask in self.asks.values() if ask.actor is actor and not ask.is_outdated]
        silent_s = self.now_s - max(actor.heard_s, min(waiting))
        expect(silent_s > PATIENCE_S, f"actor {actor.number} is taken for hung after {silent_s:.1f} s")
        self._record_loss(actor, None)

    def fail(self, i: wanted.Fail) -> None:
        self.failure = i.error
        present = [name for name in self.present() if self.streaming]
        starting_s = [self.now_s - actor.asked_s for actor in self.in_slot.values() if not actor.is_up]
        self.promises.fail(str(i.error), present, starting_s)

    def present(self) -> list[str]:
        slots = self.promises.slots
        return [name for n, actor in self.in_slot.items() if actor.is_up for name in slots[n].names]

    # Instructions about answers

    def ask(self, i: wanted.Ask) -> None:
        actor = self.actors[i.actor]
        content = Contribution(actor.slot, i.piece, dict(i.shares))
        expect(actor.is_up, f"actor {i.actor} is asked before it is up")
        self.asks[i.ask] = SimulatedAsk(actor, content, self.now_s)
        self.promises.hold(sum(ask.actor is actor and not ask.is_outdated for ask in self.asks.values()))
        r = self.random()
        late_s = 45.0 * self.random() if r < self.schedule.late else 0.0
        actor.free_s = max(actor.free_s, self.now_s) + 0.1 + 0.8 * r + late_s
        self.later(actor.free_s, self.answer, i.ask, actor)

    def answer(self, number: int, actor: SimulatedActor) -> None:
        ask = self.asks.get(number)
        if actor.is_hung:
            return
        if ask is None:  # late: its actor was released, or its answer is used
            self.tell(Answered(self.now_s, number))
            return
        if actor.is_dead:
            self._answer_dead(number, ask)
            return
        actor.heard_s = self.now_s
        if ask.is_outdated:
            del self.asks[number]
            self.tell(Answered(self.now_s, number))
            return
        piece = ask.content.piece
        for name in ask.content.shares:
            fault = self.schedule.pieces.get((name, piece))
            if fault is not None and fault.times:
                fault.times -= 1
                ask.content.is_right = False
                self._answer_wrong(number, actor, fault.how, name, piece)
                return
        self.promises.slots[actor.slot].answer(piece)
        self.tell(Answered(self.now_s, number))

    def _answer_dead(self, number: int, ask: SimulatedAsk) -> None:
        if ask.is_outdated:
            del self.asks[number]
            self.tell(Answered(self.now_s, number))
        else:
            self.lose(ask.actor, Kind.DIED, None)

    def _answer_wrong(self, number: int, actor: SimulatedActor, how: str, name: str, piece: int) -> None:
        if how == "shape":
            self._count_loss(actor, piece, lambda: self.tell(Answered(self.now_s, number, "answered (3, 2)")))
        elif how == "nan":
            self.lose(actor, Kind.WRONG, piece, [name])
        else:
            self.lose(actor, Kind.FAILED, piece, [name] if how == "raise" else [])

    def lose(self, actor: SimulatedActor, kind: Kind, at: int | None, members: list[str] | None = None) -> None:
        """Report a loss to the pool."""
        part = None if at is None or at == START else self.part_of(at)
        event = Lost(self.now_s, actor.number, kind, kind.value, members or (), at, part)
        self._count_loss(actor, at, lambda: self.tell(event))

    def _count_loss(self, actor: SimulatedActor, at: int | None, tell: Callable[[], None]) -> None:
        present = self.in_slot.get(actor.slot) is actor
        if present:
            self._record_loss(actor, at)
        tell()
        if present:
            self.promises.check_loss(self.failure is not None)

    def _record_loss(self, actor: SimulatedActor, at: int | None) -> None:
        held = [ask.content.piece for ask in self.asks.values() if ask.actor is actor and not ask.is_outdated]
        self.promises.lost = True
        self.promises.slots[actor.slot].lose(at, max(held, default=-1))

    def part_of(self, piece: int) -> int:
        return next(number for number, pieces in self.schedule.parts if piece in pieces)

    def discard(self, i: wanted.Discard) -> None:
        for number in i.asks:
            self.asks[number].is_outdated = True

    def release(self, i: wanted.Release) -> None:
        for number in i.asks:
            del self.asks[number]

    # Instructions about jobs

    def reduce(self, i: wanted.Reduce) -> None:
        given = [self.asks[number].content for number in i.asks]
        up = [slot in self.in_slot and self.in_slot[slot].is_up for slot in range(len(self.schedule.groups))]
        shares = self.promises.reduce(i, given, up)
        fault = self._fault()
        self._begin(i.job, SimulatedJob(i.part, {i.piece: shares}, i.asks, i.members, i.whole, fault))

    def write(self, i: wanted.Write) -> None:
        content: dict[int, dict[str, float]] = {}
        for number in i.pieces:
            content |= self.made.pop(number).content
        self._begin(i.job, SimulatedJob(i.part, content, (), i.members, True, self._fault()))

    def retry(self, i: wanted.Retry) -> None:
        job = self.jobs.pop(i.failed)
        job.attempt += 1
        self._begin(i.job, job)

    def drop(self, i: wanted.Drop) -> None:
        for number in i.jobs:
            expect((number in self.jobs) != (number in self.made), f"job {number} is dropped and does not exist")
            self.jobs.pop(number, None)
            self.made.pop(number, None)

    def finish(self, i: wanted.Finish) -> None:
        job = self.made.pop(i.job)
        expect(job.part == i.part and job.writes, f"part {i.part} is handed on from the job of part {job.part}")
        stored = self.stored.get(i.part, [])
        expect((job.members, job.content) in stored, f"part {i.part} is handed on, and its content is not stored")
        self.promises.finish(i.part, job.content, job.members)

    def _fault(self) -> str:
        self.begun += 1
        return self.schedule.jobs.get(self.begun - 1, "")

    def _begin(self, number: int, job: SimulatedJob) -> None:
        self.jobs[number] = job
        expect(len(self.jobs) <= self.schedule.at_once, f"{len(self.jobs)} jobs at once")
        r = self.random()
        end_s = self.now_s + 2.0 * TASK_S * r
        if job.fault == "slow" and not job.attempt:
            end_s += 60.0 * r
        if job.fault == "hang" and not job.attempt and not (job.writes and not job.asks):
            self.later(end_s + 400.0 * r, self.apply, job)  # it writes after its replacement has started
            return
        self.later(end_s, self.end_job, number, job)

    def end_job(self, number: int, job: SimulatedJob) -> None:
        fails = job.fault in ("always", "final") or (job.fault in ("raise", "applied") and not job.attempt)
        if self.schedule.on_workers and self._loses_answers(number, job):
            return
        if not fails or job.fault == "applied":
            self.apply(job)
        if self.jobs.get(number) is not job:  # late: the job was dropped or replaced
            self.tell(Made(self.now_s, number))
            return
        if fails:
            self.promises.job_reasons |= job.fault in ("always", "final")
            error = RunError(f"writing part {job.part} of the soft targets failed")
            self.tell(Raised(self.now_s, number, "OSError", error, final=job.fault == "final"))
            return
        self.made[number] = self.jobs.pop(number)
        self.tell(Made(self.now_s, number))

    def apply(self, job: SimulatedJob) -> None:
        """Make a write visible, even if the job was dropped."""
        if job.writes:
            self.stored.setdefault(job.part, []).append((job.members, job.content))

    def _loses_answers(self, number: int, job: SimulatedJob) -> bool:
        """Whether an answer that the job reads is lost, before or during the read. Reports the loss to the state."""
        if job.fault.startswith("lost") and job.asks and not job.attempt:
            self.lost_answers.add(job.asks[int(self.random() * len(job.asks))])
        lost = next((ask for ask in job.asks if ask in self.lost_answers), None)
        if lost is None:
            return False
        if self.jobs.get(number) is job:
            del self.jobs[number]
            named = job.fault != "lost unnamed"
            self.promises.job_reasons |= not named
            error = RunError(f"writing part {job.part} of the soft targets failed")
            event = AnswersLost(self.now_s, number, lost if named else None, "ObjectLostError", error)
            held = self.asks.get(lost) if named else None
            if held is None or held.is_outdated:
                self.tell(event)
            else:
                self._count_loss(held.actor, None, lambda: self.tell(event))
        return True

    # Faults at scheduled times

    def die(self, slot: int) -> None:
        actor = self.in_slot.get(slot)
        if actor is not None:
            actor.is_dead = True
            for number, ask in [*self.asks.items()]:
                if ask.actor is actor:
                    self.later(self.soon(), self.answer, number, actor)

    def hang(self, slot: int) -> None:
        actor = self.in_slot.get(slot)
        if actor is not None:
            actor.is_hung = True

    def notice(self, slot: int) -> None:
        actor = self.in_slot.get(slot)
        if actor is not None:
            leaves_s = self.now_s + 20.0 * self.random()
            self.later(leaves_s, self.leave, actor.node)
            for k in range(4):
                self.later(min(leaves_s, self.now_s + 5.0 * k), self.tell_leaving, actor.node)

    def tell_leaving(self, node: str) -> None:
        self.tell(Leaving(self.now_s, frozenset({node})))

    def leave(self, node: str) -> None:
        for actor in [*self.actors.values()]:
            if actor.node == node and self.in_slot.get(actor.slot) is actor:
                self.die(actor.slot)

    def break_run(self, slot: int) -> None:
        self.promises.ended = True
        self.tell(Ended(self.now_s, RunError("member 0 answers differently since it was started again")))


_MOMENTS: dict[str, Callable[..., None]] = {
    "die": World.die,
    "hang": World.hang,
    "notice": World.notice,
    "ended": World.break_run,
}
_EXECUTE: dict[type[Instruction], Callable[[World, Any], None]] = {
    wanted.Start: World.start,
    wanted.Prepare: World.prepare,
    wanted.Kill: World.kill,
    wanted.Check: World.check,
    wanted.Note: World.note,
    wanted.Fail: World.fail,
    wanted.Ask: World.ask,
    wanted.Discard: World.discard,
    wanted.Release: World.release,
    wanted.Reduce: World.reduce,
    wanted.Write: World.write,
    wanted.Retry: World.retry,
    wanted.Drop: World.drop,
    wanted.Finish: World.finish,
}
