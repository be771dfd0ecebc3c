"""The pool of teachers on Ray: a driver of `orchestrator.teachers.state`.

It waits for events of Ray, passes them to the state, and executes the returned instructions. It decides only how long
it waits. It streams soft targets in the order of the transfer set.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from orchestrator.cluster import reservation
from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.reporting.report import Bound
from orchestrator.teachers.actors import Actors, Question, StartActor
from orchestrator.teachers.events import Close, Event, Leaving, Open, Stream, Tick
from orchestrator.teachers.instructions import (
    Ask,
    Check,
    Discard,
    Drop,
    Fail,
    Finish,
    Instruction,
    Kill,
    Note,
    Prepare,
    Reduce,
    Release,
    Retry,
    Start,
    Write,
)
from orchestrator.teachers.jobs import Jobs
from orchestrator.teachers.membership import Rules
from orchestrator.teachers.state import PoolState
from workers import telemetry
from workers.errors import RunError
from workers.inference.reduce import Reduction
from workers.inference.teacher import Member
from workers.targets.soft_targets import Part

AT_ONCE = 3
"""Most concurrent reductions and writes; at most one per core."""
POLL_S = 1.0


@dataclass(frozen=True)
class Hosting:
    """The members of a pool, their mixture weights, and their groups by actor.

    stacked: whether actors stack their members; None: the actors choose, and have to agree.
    """

    members: Sequence[Member]
    weights: Sequence[float]
    groups: Sequence[range]
    stacked: bool | None = None


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a pool.

    note(action, member names, evidence): called when a teacher is lost, comes back or moves. check_stopped: raises if
    the run is stopping. check: raises if the outputs of the started teachers are wrong; called at the start and
    whenever a teacher comes back.
    """

    note: Callable[[str, Sequence[str], str], None]
    check_stopped: Callable[[], None]
    check: Callable[[TeacherPool], None]


@dataclass
class Clock:
    """A clock of the pool's own waiting time.

    A step counts at most two polling intervals, however long it takes. So no teacher is late because this process was
    stopped, or because the consumer of the stream is slow.
    """

    now_s: float = 0.0
    read_s: float = field(default_factory=time.monotonic)

    def read(self) -> float:
        before, self.read_s = self.read_s, time.monotonic()
        self.now_s += min(self.read_s - before, 2 * POLL_S)
        return self.now_s


class TeacherPool:
    """Starts teachers for a `with` block, and releases their resources at its end."""

    def __init__(self, hosting: Hosting, start: StartActor, spec: EnsembleSpec, hooks: Hooks) -> None:
        """`start(members, place)` starts the actor that hosts them."""
        members, weights = hosting.members, hosting.weights
        groups = [[members[k].name for k in group] for group in hosting.groups]
        self.weights = {member.name: weight for member, weight in zip(members, weights, strict=True)}
        rules = Rules(spec.on_member_loss, spec.start_timeout_s)
        self.state = PoolState(groups, self.weights, rules, hosting.stacked)
        self.actors = Actors(start, {member.name: member for member in members})
        self.hooks = hooks
        self.clock = Clock()
        self.jobs: Jobs | None = None
        self.finished: deque[Part] = deque()
        self.wait_s = 0.0
        self.work_s = 0.0
        self._looked_s = -POLL_S
        self._execute: dict[type[Instruction], Callable[[Any], None]] = {
            Start: self.actors.start,
            Prepare: self.actors.prepare,
            Kill: self.actors.kill,
            Ask: self.actors.ask,
            Discard: self.actors.discard,
            Release: self.actors.release,
            Check: lambda wanted: self.hooks.check(self),
            Note: self._note,
            Fail: self._fail,
        }

    def __enter__(self) -> TeacherPool:
        try:
            self._count()
            self._tell(Open(self.clock.read()))
            while not self.state.is_open:
                self._step()
            self._count()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def stream(self, parts: Sequence[int], temperature: float, reduction: Reduction) -> Iterator[Part]:
        """Compute these parts of the store, and yield them in order once they are written."""
        at_once = max(1, min(AT_ONCE, int(ray.cluster_resources().get("CPU", 1))))
        self.actors.question = Question(temperature, reduction)
        pieces = [(number, reduction.layout.pieces(number)) for number in parts]
        with Jobs(reduction, at_once) as jobs:
            self.jobs = jobs
            self._execute |= self._execute_jobs(jobs)
            self._tell(Stream(self.clock.read(), pieces, reduction.reduces_on_workers, at_once))
            while not self.state.is_done:
                began, waited_s = time.perf_counter(), self._step()
                self._count()
                while self.finished:
                    yield self.finished.popleft()
                self.wait_s += waited_s
                self.work_s += time.perf_counter() - began - waited_s
        self.jobs = None

    @property
    def stacked(self) -> bool | None:
        """Whether actors stack their members; settled once all are up."""
        return self.state.membership.stacked

    @property
    def bound_by(self) -> Bound:
        """The bottleneck of the pass: the teachers or the driver."""
        return "teacher" if self.wait_s >= self.work_s else "driver"

    def probes(self) -> dict[str, NDArray[np.float32]]:
        """The probe outputs of each member from the start of its actor: probabilities [n, K] at T = 1."""
        return self.actors.first_answers(self._present())

    def one_of_each_node(self) -> list[str]:
        """One member per node with teachers."""
        return self.actors.one_of_each_node(self._present())

    def _present(self) -> list[int]:
        """The numbers of the actors that have to answer each piece."""
        return [slot.actor.number for slot in self.state.membership.present() if slot.actor is not None]

    # News

    def _step(self) -> float:
        """Wait for events and handle them. Returns the seconds spent waiting for teachers."""
        self.hooks.check_stopped()
        awaited = self.actors.awaited(self.state.awaited())
        began = time.perf_counter()
        ready = self._wait(awaited)
        waited_s = time.perf_counter() - began if self.state.head is not None else 0.0
        for event in self._news(awaited, ready, self.clock.read()):
            self._tell(event)
        return waited_s

    def _wait(self, awaited: Mapping[Any, int]) -> list[Any]:
        """Wait until the piece at the head is answered, or a job or a start has ended. Returns the answers."""
        if self.state.head is not None:
            refs = [*awaited, *self.actors.starting(self._present())]
            if refs:
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=POLL_S)
                return [ref for ref in ready if ref in awaited]
        if self.jobs is not None and self.jobs.calls:
            self.jobs.wait(POLL_S)
        elif starting := self.actors.starting():
            ray.wait(starting, num_returns=1, timeout=POLL_S)
        return []

    def _news(self, awaited: Mapping[Any, int], ready: Sequence[Any], now_s: float) -> list[Event]:
        """New events. Started actors come first, so that a successor can replace a lost actor."""
        return [
            *self.actors.starts(now_s),
            *self.actors.ends(awaited, ready, now_s),
            *(self.jobs.ends(now_s) if self.jobs is not None else ()),
            *self._notices(now_s),
            Tick(now_s),
        ]

    def _notices(self, now_s: float) -> list[Event]:
        """Events for nodes that will go away, polled once per `POLL_S`."""
        if self.jobs is None or now_s - self._looked_s < POLL_S:
            return []
        self._looked_s = now_s
        nodes = frozenset(reservation.leaving())
        return [Leaving(now_s, nodes)] if nodes else []

    # Instructions

    def _tell(self, event: Event) -> None:
        for instruction in self.state.handle(event):
            self._execute[type(instruction)](instruction)

    def _execute_jobs(self, jobs: Jobs) -> dict[type[Instruction], Callable[[Any], None]]:
        return {
            Reduce: lambda wanted: jobs.reduce(wanted, self.actors.given(wanted.asks)),
            Write: jobs.write,
            Retry: jobs.retry,
            Drop: jobs.drop,
            Finish: lambda wanted: self.finished.append(jobs.take(wanted.job)),
        }

    def _note(self, wanted: Note) -> None:
        self.hooks.note(wanted.action, wanted.members, wanted.evidence)

    def _fail(self, wanted: Fail) -> None:
        error = wanted.error
        if wanted.lists_free:
            error = RunError(
                f"{error}. The cluster has {reservation.inventory()}. Free some of it, or set a longer "
                "`ensemble.start_timeout_s`."
            )
        if wanted.cause is None:
            raise error
        raise error from wanted.cause

    def _release(self) -> None:
        self._tell(Close(self.clock.read()))
        self._count(over=True)

    def _count(self, over: bool = False) -> None:
        slots = self.state.membership.slots
        live = sum(len(slot.names) for slot in slots if slot.is_up and not slot.away)
        telemetry.gauge(telemetry.MEMBERS_LIVE, live)
        telemetry.gauge(telemetry.MEMBERS_EXPECTED, 0 if over else len(self.weights))
        telemetry.gauge(telemetry.PARTS_IN_FLIGHT, sum(len(slot.asked) for slot in slots))
