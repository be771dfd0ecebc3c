"""The pool of teachers: start, ask, replace, release. Streams soft targets in the order of the transfer set.

Every actor sees every part and answers with the sum of its members' contributions; the driver, or for large outputs a
task beside the teachers, adds the actors' sums. A few parts are in flight, so that no teacher waits for the driver, and
no more, so that the driver's memory stays flat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray

from orchestrator import cluster, failures
from orchestrator.cluster import Placement
from orchestrator.config import EnsembleSpec
from orchestrator.failures import Action, Loss
from orchestrator.report import Bound
from workers import ensemble as ensembles
from workers.assembly import Assembly, part_beside_teachers
from workers.data import Dataset
from workers.errors import RunError
from workers.kept_logits import KeptLogits
from workers.order import Layout
from workers.soft_targets import Numerics, Part
from workers.teacher import Member
from workers.teacher_actor import TeacherActor

logger = logging.getLogger(__name__)

IN_FLIGHT = 4
"""Parts that are asked for at once, and so the most that a teacher can be ahead of the driver."""
GONE = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
LOST = (*GONE, ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError)
"""How Ray says that a teacher, or what it had answered, is no longer there."""
START_TIMEOUT_S = 300.0
POLL_S = 1.0
HELD = 0.95
"""Of the cores that an actor is to have, those that it holds: so a student's worker, which holds a hundredth, finds a
place beside teachers that take all."""


class _Gone(Exception):
    """A teacher, or what it had answered, is no longer there."""

    def __init__(self, seat: Seat, error: BaseException) -> None:
        super().__init__(str(error))
        self.seat, self.error = seat, error


@dataclass
class Answer:
    """What a teacher was asked for: references to how many rows it has and to their values, or the values."""

    rows: Any
    values: Any


@dataclass
class Seat:
    """One actor's place in the pool, whoever sits in it now."""

    members: list[Member]
    actor: Any
    restarts: int = 0
    up: Any = None
    """Of an actor that was started again: a reference to the news that it is up, until it is."""
    asked_s: float = 0.0
    """When it was started again."""
    answers: dict[int, Answer] = field(default_factory=dict)
    """Answers that were asked for and not yet used, by their part."""


def starter(
    data: ray.ObjectRef[Dataset],
    layout: Layout,
    numerics: Numerics,
    placement: Placement,
    kept: dict[str, KeptLogits],
) -> Callable[[list[Member]], Any]:
    """What starts a teacher of these members, with the cores and the share of a GPU that it is to hold."""

    def start(members: list[Member]) -> Any:
        return TeacherActor.options(  # type: ignore[attr-defined]
            num_cpus=HELD * placement.num_cpus, num_gpus=placement.num_gpus, max_restarts=0
        ).remote(members, data, layout, numerics, kept)

    return start


class TeacherPool:
    """Teachers up and ready for as long as the `with` block lasts; their resources are given back at its end."""

    def __init__(
        self,
        members: Sequence[Member],
        weights: Sequence[float],
        start: Callable[[list[Member]], Any],
        spec: EnsembleSpec,
        groups: Sequence[range],
        on_loss: Callable[[str, Sequence[str]], None],
        stacked: bool | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`start(members)` starts the actor that hosts them, and `groups` says who shares one. `on_loss(action, member
        names)` hears of every lost teacher. Where `stopped()`, nothing is waited for any longer."""
        self.weights = {member.name: weight for member, weight in zip(members, weights, strict=True)}
        self.start = start
        self.spec = spec
        self.on_loss = on_loss
        self.stacked = stacked
        self.stopped = stopped
        self.wait_s = 0.0
        self.work_s = 0.0
        self.seats = [Seat([members[k] for k in group], None) for group in groups]

    def __enter__(self) -> TeacherPool:
        for seat in self.seats:
            seat.actor = self.start(seat.members)
        try:
            self.stacked = self._agree()
        except ray.exceptions.RayError as error:
            self._release()
            raise cluster.as_run_error("starting the teachers", error) from error
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
        for number, part in enumerate(parts):
            began = time.perf_counter()
            while True:
                try:
                    for seat in self.seats:
                        self._ask(seat, parts[number : number + IN_FLIGHT], temperature)
                    for seat in self.seats:
                        self._take(seat, part, near)
                    taken = time.perf_counter()
                    made = self._assemble(part, assembly, near)
                    break
                except _Gone as gone:
                    self._lost(gone.seat, gone.error)
            for seat in self.seats:
                del seat.answers[part]
            self.wait_s += taken - began
            yield made
            self.work_s += time.perf_counter() - taken

    @property
    def bound_by(self) -> Bound:
        """What the pass waited for: the driver for the teachers, or the teachers for the driver."""
        return "teacher" if self.wait_s >= self.work_s else "driver"

    def _agree(self) -> bool:
        """All teachers up, and of one mind on whether members that share one are stacked."""

        def asked(stacked: bool | None) -> list[bool]:
            answers = [seat.actor.ready.remote(stacked) for seat in self.seats]
            self._wait(answers)
            found: list[bool] = ray.get(answers)
            return found

        choices = asked(self.stacked)
        if len(set(choices)) > 1:
            asked(False)
        return all(choices)

    def _ask(self, seat: Seat, parts: Sequence[int], temperature: float) -> None:
        shares = self._shares()
        hosted = {member.name: shares[member.name] for member in seat.members}
        for part in parts:
            if part not in seat.answers:
                seat.answers[part] = Answer(*seat.actor.soften.remote(part, temperature, hosted, self.spec.combine))

    def _take(self, seat: Seat, part: int, near: bool) -> None:
        """Wait for an answer: for the answer itself, or only for the news that it is there."""
        answer = seat.answers[part]
        try:
            if near:
                self._wait([answer.rows], seat)
                ray.get(answer.rows)
            elif isinstance(answer.values, ray.ObjectRef):
                self._wait([answer.values], seat)
                answer.values = ray.get(answer.values)
        except LOST as error:
            raise _Gone(seat, error) from error
        except ray.exceptions.RayTaskError as error:
            names = ", ".join(member.name for member in seat.members)
            raise cluster.as_run_error(f"teacher of {names}", error) from error

    def _wait(self, references: Sequence[Any], seat: Seat | None = None) -> None:
        """Until these are there, or failed.

        seat: whose they are; without one, of actors that only just start.

        Raises: `RunError` where an actor that was started does not come up; InterruptedError where the pass is stopped.
        """
        began = time.monotonic()
        self._check_stopped()
        while len(ray.wait(list(references), num_returns=len(references), timeout=POLL_S)[0]) < len(references):
            self._check_stopped()
            if seat is not None and (seat.up is None or ray.wait([seat.up], timeout=0)[0]):
                seat.up = None
                continue
            if time.monotonic() - (began if seat is None else seat.asked_s) > START_TIMEOUT_S:
                raise RunError(
                    f"teachers were not up after {START_TIMEOUT_S:g} s: asked for {len(self.seats)} actors; free now: "
                    f"{ray.available_resources()}."
                )

    def _check_stopped(self) -> None:
        if self.stopped():
            raise InterruptedError("the pass was stopped with its run")

    def _assemble(self, part: int, assembly: Assembly, near: bool) -> Part:
        answers = [seat.answers[part].values for seat in self.seats]
        names = list(self._shares())
        if not near:
            return assembly.part(part, names, *answers)
        try:
            made: Part = ray.get(part_beside_teachers.remote(assembly, part, names, *answers))
        except GONE as error:
            lost = getattr(error, "object_ref_hex", None)
            whose = [seat for seat in self.seats if seat.answers[part].values.hex() == lost]
            raise _Gone(whose[0] if whose else self.seats[-1], error) from error
        except ray.exceptions.RayError as error:
            raise cluster.as_run_error(f"writing part {part} of the soft targets", error) from error
        return made

    def _shares(self) -> dict[str, float]:
        """The weights of the members that are still here, summing to 1."""
        names = [member.name for seat in self.seats for member in seat.members]
        return dict(zip(names, ensembles.normalised([self.weights[name] for name in names]), strict=True))

    def _lost(self, seat: Seat, error: BaseException) -> None:
        names = [member.name for member in seat.members]
        others = [member.name for other in self.seats if other is not seat for member in other.members]
        survivors = sum(self.weights[name] > 0 for name in others)
        action = failures.decide(self.spec.on_member_loss, Loss(seat.restarts, survivors))
        logger.warning("teacher of %s lost (%s): %s", ", ".join(names), type(error).__name__, action.value)
        self.on_loss(action.value, names)
        if action is Action.RESTART:
            seat.restarts += 1
            seat.answers.clear()
            ray.kill(seat.actor)  # it may be alive, with its answers lost
            seat.actor = self.start(seat.members)
            seat.up, seat.asked_s = (
                seat.actor.ready.remote(self.stacked),
                time.monotonic(),
            )  # before what it is asked next
        elif action is Action.REWEIGHT:
            self.seats.remove(seat)
            for other in self.seats:  # what is in flight was asked for with the old weights
                other.answers.clear()
        else:
            raise RunError(
                f"the teacher of {', '.join(names)} was lost after {seat.restarts} restarts, and "
                f"`ensemble.on_member_loss: {self.spec.on_member_loss}` ends the run. What was complete is kept; "
                "the same command resumes."
            ) from error

    def _release(self) -> None:
        for seat in self.seats:
            seat.answers.clear()
            if seat.actor is not None:
                ray.kill(seat.actor)
                seat.actor = None
