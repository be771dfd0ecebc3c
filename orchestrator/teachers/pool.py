"""The pool of teachers: start, ask, replace, release. Streams soft targets in the order of the transfer set.

Every actor sees every piece of a part and answers with the sum of its members' contributions; the driver, or for large
outputs tasks beside the teachers, add the actors' sums (`orchestrator.teachers.reduction`). A few pieces are in flight,
so that no teacher waits for the driver, and no more, so that memory stays flat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from orchestrator.cluster import errors, reservation
from orchestrator.config.run_config import EnsembleSpec
from orchestrator.reporting.report import Bound
from orchestrator.teachers import policy as failures
from orchestrator.teachers.policy import Action, Kind, Loss
from orchestrator.teachers.reduction import GONE, Assembler, Unmade
from orchestrator.teachers.slot import ActorSlot, Answer, Start
from workers import ensemble as ensembles
from workers import faults, telemetry
from workers.errors import BadAnswer, RunError
from workers.faults import Fault
from workers.inference.reduce import Assembly
from workers.inference.teacher import Member
from workers.targets.soft_targets import Part

IN_FLIGHT = 6
"""Pieces that are asked for and not yet reduced, and so the most that a teacher can be ahead of the driver."""
AT_ONCE = 3
"""Pieces that are reduced, and parts that are written, at a time; on fewer cores no more than those."""
AHEAD = 16
"""Pieces behind those that are asked for of which a teacher is told, since it may compute several together."""
LOST = (*GONE, ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError)
"""How Ray says that a teacher, or what it had answered, is no longer there."""
POLL_S = 1.0
WOKEN_S = 3.0


class _Gone(Exception):
    """A teacher is lost.

    members: those of its members that the evidence is about; all where it names none. at: the piece at which it failed,
    or `faults.START`; None where that is unknown. told: the evidence in full.
    """

    def __init__(
        self,
        slot: ActorSlot,
        kind: Kind,
        evidence: str,
        members: Sequence[str] = (),
        at: int | None = None,
        told: str = "",
    ) -> None:
        super().__init__(evidence)
        self.slot, self.kind, self.evidence, self.told = slot, kind, evidence, told or evidence
        self.members = [name for name in members if name in slot.names] or slot.names
        self.at = at

    @property
    def is_of_some(self) -> bool:
        """Whether other members in its process had no part in it."""
        return len(self.members) < len(self.slot.names)


class TeacherPool:
    """Teachers up and ready for as long as the `with` block lasts; their resources are given back at its end."""

    def __init__(
        self,
        members: Sequence[Member],
        weights: Sequence[float],
        start: Start,
        spec: EnsembleSpec,
        groups: Sequence[range],
        heard: Callable[[str, Sequence[str], str], None],
        stacked: bool | None = None,
        check_stopped: Callable[[], None] = lambda: None,
        check: Callable[[TeacherPool], None] = lambda pool: None,
    ) -> None:
        """`start(members, place)` starts the actor that hosts them, and `groups` says who shares one. `heard(what,
        member names, evidence)` hears of teachers that are lost and that come back. `check_stopped` raises where
        nothing is to be waited for any more, and `check` where those that are up, at the start and whenever one is
        back, are not to be trusted.
        """
        self.weights = {member.name: weight for member, weight in zip(members, weights, strict=True)}
        self.start = start
        self.spec = spec
        self.heard = heard
        self.stacked = stacked
        self._check_stopped = check_stopped
        self.check = check
        self._part_of: Callable[[int], int] = lambda piece: piece
        self.wait_s = 0.0
        self.work_s = 0.0
        self.slots = [ActorSlot([members[k] for k in group], place) for place, group in enumerate(groups)]

    def __enter__(self) -> TeacherPool:
        try:
            self._count()
            self.stacked = self._open()
            self.check(self)
            self._count()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def stream(self, parts: Sequence[int], temperature: float, assembly: Assembly, *, near: bool) -> Iterator[Part]:
        """These parts of the store, one after another, as they are written.

        near: answers stay where the teachers are, and parts are put together there.
        """
        at_once = max(1, min(AT_ONCE, int(ray.cluster_resources().get("CPU", 1))))
        self._part_of = assembly.layout.part_of
        with Assembler(assembly, parts, near, at_once) as work:
            while work.unanswered(1) or work.parts:
                began = time.perf_counter()
                try:
                    self._welcome()
                    self._heed_notices()
                    self._await_anybody()
                    if work.unanswered(1) and not work.is_full:
                        self._answer(work, temperature)
                        self.wait_s += time.perf_counter() - began
                        began = time.perf_counter()
                    else:
                        self._check_stopped()
                        work.wait(POLL_S)
                    self._collect(work)
                except _Gone as gone:
                    self._lost(gone)
                self._count()
                yield from work.finished()
                self.work_s += time.perf_counter() - began

    def _answer(self, work: Assembler, temperature: float) -> None:
        """Wait for all answers to the next piece, and let it be reduced."""
        pieces = work.unanswered(IN_FLIGHT + AHEAD)
        asked = pieces[: max(1, IN_FLIGHT - work.reducing)]
        for slot in self._present():
            self._ask(slot, asked, temperature, pieces)
        for slot in self._present():
            self._take(slot, pieces[0], work.assembly, work.near)
        answers = {place: slot.answers[pieces[0]].values for place, slot in enumerate(self.slots) if not slot.away}
        work.begin(pieces[0], list(self._shares()), answers)

    def _collect(self, work: Assembler) -> None:
        """Take what has been made of answers, and forget those."""

        def forget(piece: int) -> None:
            for slot in self.slots:
                slot.answers.pop(piece, None)

        try:
            work.collect(forget)
        except Unmade as unmade:
            self._heed(unmade)

    def _heed(self, unmade: Unmade) -> None:
        """Find the teacher whose answer is lost. Where an answer was replaced meanwhile, ask for the piece again."""
        lost = {getattr(unmade.error, "object_ref_hex", None), getattr(unmade.error, "actor_id", None)}
        replaced = False
        for place, values in unmade.answers.items():
            slot, held = self.slots[place], self.slots[place].answers.get(unmade.piece)
            if held is None or held.values is not values:
                replaced = True  # the slot has another actor, or the mixture weights have changed
            elif lost & {values.hex(), slot.actor._actor_id.hex()}:
                raise _Gone(slot, Kind.DIED, _evidence(unmade.error)) from unmade.error
        if not replaced:
            doing = f"writing part {self._part_of(unmade.piece)} of the soft targets"
            raise errors.as_run_error(doing, unmade.error) from unmade.error

    def probes(self) -> dict[str, NDArray[np.float32]]:
        """What each member said of a few examples when its actor came up: probabilities [n, K] at T = 1."""
        started = [slot.started for slot in self._present() if slot.started is not None]
        return {name: said for each in started for name, said in each.probes.items()}

    def one_of_each_node(self) -> list[str]:
        """A member on every node that teachers are on."""
        on = {s.started.where.node: s.names[0] for s in reversed(self._present()) if s.started is not None}
        return list(on.values())

    @property
    def bound_by(self) -> Bound:
        """What the pass waited for: the driver for the teachers, or the teachers for the driver."""
        return "teacher" if self.wait_s >= self.work_s else "driver"

    def _present(self) -> list[ActorSlot]:
        return [slot for slot in self.slots if not slot.away]

    def _open(self) -> bool:
        """All teachers up, and of one mind on whether members that share one are stacked."""
        for slot in self.slots:
            slot.start(self.start, self.stacked)
        while True:
            try:
                for slot in self._present():
                    self._await_start([slot])
                self._await_anybody()
                choices = {slot.started.stacked for slot in self._present() if slot.started is not None}
                if len(choices) == 1:
                    return choices == {True}
                self.stacked = False
                for slot in self._present():
                    slot.prepare(self.stacked)
            except _Gone as gone:
                self._lost(gone)

    def _await_anybody(self) -> None:
        """Until there is somebody whose answers count."""
        while not any(self.weights[name] > 0 for slot in self._present() for name in slot.names):
            self._await_start([slot for slot in self.slots if slot.is_expected and slot.away])
            self._welcome()

    def _await_start(self, slots: Sequence[ActorSlot]) -> None:
        """Until one of these actors is up.

        Raises: `RunError` where it takes too long, or what it is to host cannot be hosted.
        """
        while not any([self._up(slot) for slot in slots]):
            self._check_stopped()
            if time.monotonic() - max(slot.asked_s for slot in slots) > self.spec.start_timeout_s:
                raise RunError(
                    f"the teacher of {', '.join(slots[0].names)} was not up after `ensemble.start_timeout_s`, "
                    f"{self.spec.start_timeout_s:g} s; free now: {ray.available_resources()}."
                )
            ray.wait([slot.up for slot in slots], timeout=POLL_S)

    def _up(self, slot: ActorSlot) -> bool:
        try:
            return slot.is_up()
        except ray.exceptions.RayError as error:
            raise _lost_by(slot, error, faults.START, "as it started") from errors.cause(error)

    def _welcome(self) -> None:
        """Take back whoever is up again."""
        for slot in self.slots:
            if slot.away and slot.is_expected and self._up(slot):
                if self.stacked is False and slot.started is not None and slot.started.stacked:
                    slot.prepare(self.stacked)  # it had begun before the others knew
                    continue
                slot.away = False
                self.check(self)
                self._ask_anew()
                self.heard("back", slot.names, "")

    def _heed_notices(self) -> None:
        """Where a node is about to go, its teacher goes on until another is up elsewhere, and takes its slot."""
        leaving = reservation.leaving()
        for slot in self._present():
            if slot.successor_is_up():
                slot.move()
            elif slot.successor is None and not slot.stays and slot.started and slot.started.where.node in leaving:
                self.heard("moves", slot.names, "its node is about to go")
                slot.begin_to_move(self.start, self.stacked)

    def _ask_anew(self) -> None:
        """What is in flight was asked for with other weights."""
        for slot in self._present():
            slot.forget_answers()

    def _ask(self, slot: ActorSlot, pieces: Sequence[int], temperature: float, ahead: Sequence[int] = ()) -> None:
        """Ask for these pieces, and tell which others will be asked for next (`ahead`)."""
        shares = self._shares()
        hosted = {name: shares[name] for name in slot.names}
        for piece in pieces:
            if piece not in slot.answers:
                next_ones = [other for other in ahead if other > piece]
                asked = slot.actor.soften.remote(piece, temperature, hosted, self.spec.combine, next_ones)
                slot.answers[piece] = Answer(*asked)

    def _take(self, slot: ActorSlot, piece: int, assembly: Assembly, near: bool) -> None:
        """Wait for an answer: for the answer itself, or only for the news that it is there."""
        answer = slot.answers[piece]
        if not near and not isinstance(answer.values, ray.ObjectRef):
            return
        awaited = answer.rows if near else answer.values
        try:
            waited_s = self._wait(awaited, slot)
            found = ray.get(awaited)
        except ray.exceptions.RayError as error:
            raise _lost_by(slot, error, piece, f"part {self._part_of(piece)}") from errors.cause(error)
        slot.answered(piece, waited_s)
        if not near:
            self._check(slot, piece, assembly, found)
            answer.values = found

    def _check(self, slot: ActorSlot, piece: int, assembly: Assembly, found: Any) -> None:
        """Whether an answer can be the sum of weighted probabilities."""
        expected, part = (len(assembly.layout.piece_ids(piece)), assembly.classes), self._part_of(piece)
        if np.shape(found) != expected:
            raise _Gone(slot, Kind.WRONG, f"answered part {part} with {np.shape(found)}; expected {expected}", at=piece)
        if assembly.combine == "arithmetic":
            shares = self._shares()
            off = ensembles.off_by(found, sum(shares[name] for name in slot.names))
            if off > ensembles.SUM_TOLERANCE:
                raise _Gone(slot, Kind.WRONG, f"probabilities in part {part} sum to 1 only within {off:.2g}", at=piece)

    def _wait(self, awaited: Any, slot: ActorSlot) -> float:
        """Until it is there, or failed: the seconds that this took.

        Raises: `_Gone` where it takes too long.
        """
        self._await_start([slot])
        began, behind = time.monotonic(), slot.behind()
        while not ray.wait([awaited], timeout=POLL_S)[0]:
            self._check_stopped()
            if behind and (left := slot.behind()) < behind:  # it is at work
                began, behind = time.monotonic(), left
            waited = time.monotonic() - began
            # once more, since this process itself may only just have been woken
            if waited > slot.patience_s and not ray.wait([awaited], timeout=WOKEN_S)[0]:
                evidence = f"no answer for {waited:.0f} s; its slowest took {slot.slowest_s:.1f} s"
                raise _Gone(slot, Kind.HUNG, evidence)
        return time.monotonic() - began

    def _shares(self) -> dict[str, float]:
        """The weights of the members that are here, summing to 1."""
        names = [name for slot in self._present() for name in slot.names]
        return dict(zip(names, ensembles.normalised([self.weights[name] for name in names]), strict=True))

    def _lost(self, gone: _Gone) -> None:
        slot, was_here = gone.slot, not gone.slot.away
        action = self._decide(gone)
        names = gone.members if action in (Action.DROP, Action.FAIL) or gone.kind is Kind.WRONG else slot.names
        self.heard(action.value, names, gone.evidence)
        if action is Action.FAIL:
            raise self._given_up(gone) from gone.__cause__
        if action is Action.DROP:
            self._drop(gone)
        else:
            slot.lose(hung=gone.kind is Kind.HUNG, at=gone.at)
            slot.away = action is Action.REWEIGHT
            slot.attempts += 1
            self._start_again(slot)
        self._count()
        if action is not Action.RESTART and was_here:
            self._ask_anew()

    def _decide(self, gone: _Gone) -> Action:
        slot = gone.slot
        mates = [name for other in self.slots if other.is_expected for name in other.names if name not in gone.members]
        loss = Loss(
            slot.attempts,
            others=sum(self.weights[name] > 0 for name in mates),
            apart=gone.kind is Kind.WRONG and gone.is_of_some,
            repeated=gone.at is not None and gone.at == slot.failed_at,
        )
        return failures.decide(self.spec.on_member_loss, loss)

    def _drop(self, gone: _Gone) -> None:
        """Go on without the members that are lost; those that shared a failed process come back in another."""
        slot = gone.slot
        if not gone.is_of_some:
            slot.lose(hung=gone.kind is Kind.HUNG)
            slot.away = True
            slot.end()
            return
        slot.leave_out(gone.members)
        if gone.kind is not Kind.WRONG:
            slot.lose(hung=gone.kind is Kind.HUNG)
            slot.away = True
            self._start_again(slot)

    def _start_again(self, slot: ActorSlot) -> None:
        slot.start(self.start, self.stacked)
        for name in slot.names:
            telemetry.count(telemetry.MEMBER_RESTARTS, member=name)

    def _given_up(self, gone: _Gone) -> RunError:
        slot, policy = gone.slot, self.spec.on_member_loss
        often = failures.often(slot.attempts, gone.at is not None and gone.at == slot.failed_at)
        when = "" if gone.at is None else f" at part {self._part_of(gone.at)} of the soft targets"
        when = " as it started" if gone.at == faults.START else when
        return RunError(
            f"the teacher of {', '.join(gone.members)} was lost{often}{when}: {gone.told.rstrip('.')}. "
            f"`ensemble.on_member_loss: {policy}` ends the run. What was complete is kept; the same command resumes."
        )

    def _count(self, over: bool = False) -> None:
        up = [slot for slot in self._present() if slot.started is not None]
        telemetry.gauge(telemetry.MEMBERS_LIVE, sum(len(slot.members) for slot in up))
        telemetry.gauge(telemetry.MEMBERS_EXPECTED, 0 if over else len(self.weights))
        telemetry.gauge(telemetry.PARTS_IN_FLIGHT, sum(len(slot.answers) for slot in self.slots))

    def _release(self) -> None:
        for slot in self.slots:
            slot.end()
        self._count(over=True)


def _lost_by(slot: ActorSlot, error: ray.exceptions.RayError, at: int, where: str) -> BaseException:
    """What a call of a teacher that raised `error` means: its loss, or an error about the run itself.

    at: the piece that was asked for, or `faults.START`. where: the same in words.
    """
    inner = errors.cause(error)
    if isinstance(inner, BadAnswer):
        return _Gone(slot, Kind.WRONG, str(inner), [inner.member], at)
    if isinstance(inner, RunError):
        return inner
    if getattr(error, "actor_init_failed", False):
        return _Gone(slot, Kind.FAILED, _evidence(error), at=faults.START)
    if isinstance(error, LOST):
        return _Gone(slot, Kind.DIED, _evidence(error))
    if isinstance(error, ray.exceptions.RayTaskError):
        raised = inner if isinstance(inner, Fault) else faults.fault(inner)
        who = [raised.of] if len(slot.names) > 1 and raised.of else []
        return _Gone(slot, Kind.FAILED, f"{', '.join([*who, where])}: {raised.headline}", who, at, str(raised))
    return errors.as_run_error(f"the teacher of {', '.join(slot.names)}", error)


def _evidence(error: BaseException) -> str:
    """How a teacher ended, in a few words: what it raised where it could not even begin, else Ray's name for it."""
    lines = str(error).strip().splitlines()
    return lines[-1] if "creation task" in str(error) else type(error).__name__
