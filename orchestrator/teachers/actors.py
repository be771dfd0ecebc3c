"""Teachers' actors on Ray and the requests to them: instructions in, events out.

Answers stay object references until the piece at the head needs them, so that the driver holds the values of only one
piece.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster import ray_private, reservation
from orchestrator.cluster.resources import Placement
from orchestrator.teachers import checks, evidence
from orchestrator.teachers.events import Answered, Event, Up
from orchestrator.teachers.instructions import Ask, Discard, Kill, Prepare, Release, Start
from orchestrator.teachers.jobs import Given
from workers import ensemble, faults, processes, telemetry
from workers.data.dataset import Dataset
from workers.errors import RunError
from workers.inference.actor import Started, TeacherActor, TeacherWork
from workers.inference.reduce import Reduction
from workers.inference.teacher import Member

StartActor = Callable[[list[Member], int | None], Any]
"""Starts the actor that hosts these members in a bundle of the reservation; None: on any free resources."""


@dataclass(frozen=True)
class Question:
    """The settings of a pass for every teacher."""

    temperature: float
    reduction: Reduction

    @property
    def combine(self) -> str | None:
        """The rule by which teachers sum their members; None: they return the logits of each."""
        return None if self.reduction.rule.weighting is not None else self.reduction.rule.combine


@dataclass
class LiveActor:
    """An actor that is not released. up: the reference of its pending `ready` call; None once it is up."""

    handle: Any
    names: tuple[str, ...]
    up: Any = None
    started: Started | None = None


@dataclass
class Answer:
    """A request to an actor: references to the number of rows and to the values. found: the fetched value."""

    actor: int
    ray_actor: str
    ask: Ask
    rows: Any
    values: Any
    found: Any = None


@dataclass
class Actors:
    """Actors by number, answers by the number of their request."""

    start_actor: StartActor
    members: Mapping[str, Member]
    question: Question | None = None
    live: dict[int, LiveActor] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    outdated: dict[Any, int] = field(default_factory=dict)
    """Requests whose values are discarded, by the reference that completes with them."""
    probes: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Each member's probe outputs of its first start."""

    # Instructions

    def start(self, wanted: Start) -> None:
        handle = self.start_actor([self.members[name] for name in wanted.members], wanted.place)
        self.live[wanted.actor] = LiveActor(handle, wanted.members)
        self.prepare(Prepare(wanted.actor, wanted.stacked))
        for name in wanted.members if wanted.again else ():
            telemetry.count(telemetry.MEMBER_RESTARTS, member=name)

    def prepare(self, wanted: Prepare) -> None:
        actor = self.live[wanted.actor]
        actor.up = actor.handle.ready.remote(wanted.stacked)

    def kill(self, wanted: Kill) -> None:
        actor = self.live.pop(wanted.actor, None)
        if actor is None:  # an earlier instruction failed before the start
            return
        self.answers = {number: answer for number, answer in self.answers.items() if answer.actor != wanted.actor}
        self.outdated = {ref: number for ref, number in self.outdated.items() if number in self.answers}
        ray.kill(actor.handle)
        if wanted.hung and actor.started is not None:
            processes.end(actor.started.where)

    def ask(self, wanted: Ask) -> None:
        assert self.question is not None
        handle, question = self.live[wanted.actor].handle, self.question
        rows, values = handle.soften.remote(
            wanted.piece, question.temperature, wanted.shares, question.combine, wanted.ahead
        )
        self.answers[wanted.ask] = Answer(wanted.actor, ray_private.actor_id(handle), wanted, rows, values)

    def discard(self, wanted: Discard) -> None:
        for number in wanted.asks:
            answer = self.answers[number]
            answer.values = None
            self.outdated[answer.rows] = number

    def release(self, wanted: Release) -> None:
        for number in wanted.asks:
            del self.answers[number]

    # News

    @property
    def _stay(self) -> bool:
        """Whether the values of answers stay on their nodes."""
        return self.question is not None and self.question.reduction.reduces_on_workers

    def starting(self, numbers: Iterable[int] | None = None) -> list[Any]:
        """The pending `ready` calls of these actors (default: of all starting actors)."""
        found = self.live.values() if numbers is None else (self.live[number] for number in numbers)
        return [actor.up for actor in found if actor.up is not None]

    def awaited(self, asks: Iterable[int]) -> dict[Any, int]:
        """The references that complete with these requests."""
        answers = {number: self.answers[number] for number in asks}
        return {(answer.rows if self._stay else answer.values): number for number, answer in answers.items()}

    def starts(self, now_s: float) -> list[Event]:
        """Events of the actors that have finished or failed to start."""
        refs = self.starting()
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else set()
        return [self._start(number, actor, now_s) for number, actor in self.live.items() if actor.up in ready]

    def _start(self, number: int, actor: LiveActor, now_s: float) -> Event:
        try:
            actor.started, actor.up = ray.get(actor.up), None
            assert actor.started is not None
            self._compare(actor.started)
        except (ray.exceptions.RayError, RunError) as error:
            actor.up = None
            failed = evidence.Call(number, actor.names, faults.START, "as it started")
            return evidence.of(error, failed, now_s)
        started = actor.started
        return Up(now_s, number, started.where.node, started.stacked, started.part_s)

    def _compare(self, started: Started) -> None:
        """Raise `RunError` where restarted members, perhaps on another node, have other outputs than before."""
        for name, probe in started.probes.items():
            apart = checks.apart(self.probes.setdefault(name, probe), probe)
            if apart > checks.ROUGH_AGREEMENT:
                raise RunError(
                    f"{name} answers differently since it was started again, by up to {apart:.2g}; expected at most "
                    f"{checks.ROUGH_AGREEMENT:g}. {checks.SAME_CODE}."
                )

    def ends(self, awaited: Mapping[Any, int], ready: Sequence[Any], now_s: float) -> list[Event]:
        """Events of completed requests: those of `awaited` that are `ready`, and discarded ones."""
        found = [self._end(awaited[ref], value, now_s) for ref, value in zip(ready, _fetched(ready), strict=True)]
        if self.outdated:
            refs = list(self.outdated)
            over, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            found += [Answered(now_s, self.outdated[ref]) for ref in over]
            for ref in over:
                del self.answers[self.outdated.pop(ref)]
        return found

    def _end(self, number: int, found: Any, now_s: float) -> Event:
        assert self.question is not None
        answer, layout = self.answers[number], self.question.reduction.layout
        if isinstance(found, ray.exceptions.RayError):
            piece, names = answer.ask.piece, self.live[answer.actor].names
            part = layout.part_of(piece)
            return evidence.of(found, evidence.Call(answer.actor, names, piece, f"part {part}", part), now_s)
        answer.found = found
        return Answered(now_s, number, "" if self._stay else self._wrong(answer))

    def _wrong(self, answer: Answer) -> str:
        """Why an answer is invalid; empty where it is valid."""
        assert self.question is not None
        reduction, piece = self.question.reduction, answer.ask.piece
        part = reduction.layout.part_of(piece)
        rows = int(reduction.numbering.rows.of(reduction.layout.piece_ids(piece)).sum())
        expected: tuple[int, ...] = (rows, reduction.classes)
        if reduction.rule.weighting is not None:
            expected = (len(answer.ask.shares), *expected)
        if np.shape(answer.found) != expected:
            return f"answered part {part} with {np.shape(answer.found)}; expected {expected}"
        if reduction.rule.weighting is not None:
            return "" if np.isfinite(answer.found).all() else f"answered part {part} with NaN or infinity"
        if reduction.rule.combine == "arithmetic":
            off = ensemble.off_by(answer.found, sum(answer.ask.shares.values()))
            if off > ensemble.SUM_TOLERANCE:
                return f"probabilities in part {part} sum to 1 only within {off:.2g}"
        return ""

    def given(self, asks: Iterable[int]) -> dict[int, Given]:
        """The answers to these requests, in the form for a job."""
        answers = {number: self.answers[number] for number in asks}
        return {
            number: Given(answer.values, answer.values.hex(), answer.ray_actor) if self._stay else Given(answer.found)
            for number, answer in answers.items()
        }

    # Started actors

    def first_answers(self, actors: Collection[int]) -> dict[str, NDArray[np.float32]]:
        """The probe outputs of each member of these actors from its start: probabilities [n, K] at T = 1."""
        found = [started for number in actors if (started := self.live[number].started) is not None]
        return {name: probe for each in found for name, probe in each.probes.items()}

    def one_of_each_node(self, actors: Sequence[int]) -> list[str]:
        """One member per node of these actors."""
        live = [self.live[number] for number in reversed(actors)]
        return list({actor.started.where.node: actor.names[0] for actor in live if actor.started is not None}.values())


def _fetched(refs: Sequence[Any]) -> list[Any]:
    """The value of each reference, or Ray's error in its place."""
    try:
        return list(ray.get(list(refs)))
    except ray.exceptions.RayError:
        return [_fetched_alone(ref) for ref in refs]


def _fetched_alone(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return error


def starter(data: ray.ObjectRef[Dataset], work: TeacherWork, placement: Placement, group: PlacementGroup) -> StartActor:
    """A function that starts a teacher with the planned cores and share of a GPU."""
    held = reservation.of_an_actor(placement)

    def start(members: list[Member], place: int | None) -> Any:
        reserved = PlacementGroupSchedulingStrategy(group, place) if place is not None else "DEFAULT"
        return TeacherActor.options(  # type: ignore[attr-defined]
            num_cpus=held["CPU"],
            num_gpus=held.get("GPU", 0.0),
            resources=dict(placement.roles),
            max_restarts=0,
            scheduling_strategy=reserved,
        ).remote(members, data, work)

    return start
