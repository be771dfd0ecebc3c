"""One teacher's place in the pool: who sits there, what it was asked, and how long it may take to answer.

A place outlives the actor that fills it. It may be empty for a while, with another actor on its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster import reservation
from orchestrator.cluster.resources import Placement
from orchestrator.teachers import checks
from workers import processes
from workers.data.dataset import Dataset
from workers.errors import RunError
from workers.inference.actor import Started, TeacherActor
from workers.inference.teacher import Member
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.soft_targets import Numerics

PATIENCE_S, PATIENCE = 30.0, 10.0
"""A teacher that does not answer is hung after so long, and after so many times the longest that it ever took."""

Start = Callable[[list[Member], int | None], Any]
"""Starts the actor that hosts these members, in its place of the room that is reserved; None: wherever one is free."""


@dataclass
class Answer:
    """What a teacher was asked for: references to how many rows it has and to their values, or the values."""

    rows: Any
    values: Any


@dataclass
class ActorSlot:
    """One actor's place: `members` are those that it is asked for."""

    members: list[Member]
    place: int | None
    actor: Any = None
    up: Any = None
    """A reference to the news that the actor is up, until it is."""
    started: Started | None = None
    """Where it runs, once it is up."""
    asked_s: float = 0.0
    """When it was started, or told anew how to compute."""
    away: bool = False
    """Whether the others go on without it."""
    answers: dict[int, Answer] = field(default_factory=dict)
    """Answers that were asked for and not yet used, by their part."""
    outdated: list[Any] = field(default_factory=list)
    """References to what it was asked for, still computes and nobody wants any more."""
    attempts: int = 0
    """How often in a row it was started again, without an answer to anything new since."""
    stuck: int = -1
    """The piece that it failed at when it was lost, or the last that it had been asked for: what comes later is new."""
    failed_at: int | None = None
    """The piece at which it raised an exception or answered nonsense when it was last lost, or `faults.START`."""
    slowest_s: float = 0.0
    """The longest that an answer was waited for; before the first, what it was tried on says."""
    probes: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """What its members said when they were first up."""
    stays: bool = False
    """Whether no other is sent for."""
    successor: ActorSlot | None = None
    """Who is on the way to take over, since the node is about to go."""

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]

    def start(self, start: Start, stacked: bool | None) -> None:
        """Begin to fill the slot, or let whoever is there to take over; what it is asked is answered once one is up."""
        if self.successor is not None and self.successor_is_up():
            self.move()
            return
        self.refuse_successor()  # it may wait for just the room that is kept for this slot
        self.actor, self.started = start(self.members, self.place), None
        self.prepare(stacked)  # before what it is asked next

    def begin_to_move(self, start: Start, stacked: bool | None) -> None:
        """Fill another slot, on another node, while whoever sits here goes on."""
        self.successor = ActorSlot(self.members, None, probes=self.probes)
        self.successor.start(start, stacked)

    def successor_is_up(self) -> bool:
        """Whether there is somebody to take over; who was lost on the way is nobody."""
        try:
            return self.successor is not None and self.successor.is_up()
        except ray.exceptions.RayError:
            self.refuse_successor()
            return False

    def refuse_successor(self) -> None:
        """Nobody else is to come: it is not tried again, since whoever sits here is started again if need be."""
        if self.successor is not None:
            self.successor.end()
            self.successor, self.stays = None, True

    def move(self) -> None:
        """Whoever is there to take over sits here from now on; what was asked is to be asked anew."""
        successor = self.successor
        assert successor is not None
        self._vacate()
        self.actor, self.up, self.started = successor.actor, successor.up, successor.started
        self.slowest_s, self.successor = max(self.slowest_s, successor.slowest_s), None

    def prepare(self, stacked: bool | None) -> None:
        """Let the actor decide, or tell it, whether members that share it are stacked; until then it is not up."""
        self.asked_s, self.up = time.monotonic(), self.actor.ready.remote(stacked)

    @property
    def is_expected(self) -> bool:
        """Whether somebody sits here, or is on the way."""
        return self.actor is not None

    def is_up(self) -> bool:
        """Whether the actor is there.

        Raises: what it raised when it started.
        """
        if self.up is not None:
            if not ray.wait([self.up], timeout=0)[0]:
                return False
            self.started = ray.get(self.up)
            self.up, self.slowest_s = None, max(self.slowest_s, self.started.part_s)
            self._compare(self.started)
        return True

    def forget_answers(self) -> None:
        """What it was asked for is to be asked otherwise.

        It is computed all the same, a few parts: an actor of Ray 2.60 waits 30 s for the number of a call that was
        cancelled before it was sent, and answers nothing meanwhile.
        """
        self.outdated += [answer.rows for answer in self.answers.values()]
        self.answers.clear()

    def behind(self) -> int:
        """How much there is still to compute that nobody wants."""
        if self.outdated:
            _, self.outdated = ray.wait(self.outdated, num_returns=len(self.outdated), timeout=0)
        return len(self.outdated)

    def answered(self, piece: int, waited_s: float) -> None:
        """An answer is there, after it alone was waited for so long."""
        self.slowest_s = max(self.slowest_s, waited_s)
        if self.failed_at is not None and piece >= self.failed_at:
            self.failed_at = None
        if piece > self.stuck:
            self.attempts = 0

    def _compare(self, started: Started) -> None:
        """Raise `RunError` where members that were started again, elsewhere perhaps, are not what they were."""
        for name, said in started.probes.items():
            apart = checks.apart(self.probes.setdefault(name, said), said)
            if apart > checks.ROUGH_AGREEMENT:
                raise RunError(
                    f"{name} answers differently since it was started again, by up to {apart:.2g}. Do all nodes have "
                    "the same code and the same versions?"
                )

    @property
    def patience_s(self) -> float:
        """How long the next answer may take."""
        return max(PATIENCE_S, PATIENCE * self.slowest_s)

    def lose(self, hung: bool = False, at: int | None = None) -> None:
        """End the actor that is lost. at: the piece that it failed at; None where any that it was asked may have it."""
        self.stuck = max(self.stuck, at) if at is not None else max([self.stuck, *self.answers])
        self.failed_at = self.failed_at if at is None else at
        self._vacate(hung)

    def leave_out(self, names: Sequence[str]) -> None:
        """Go on without these members; what they had failed at says nothing of the others."""
        self.members = [member for member in self.members if member.name not in names]
        self.attempts, self.failed_at = 0, None

    def end(self) -> None:
        """Give back what is held here."""
        self._vacate()
        if self.successor is not None:
            self.successor.end()
            self.successor = None

    def _vacate(self, hung: bool = False) -> None:
        """The actor goes. Where it is `hung` it may not hear Ray, and its node ends the process."""
        self.answers.clear()
        self.outdated.clear()
        if self.actor is not None:
            ray.kill(self.actor)
        if hung and self.started is not None:
            processes.end(self.started.where)
        self.actor = self.up = self.started = None


def starter(
    data: ray.ObjectRef[Dataset],
    classes: int,
    layout: PartLayout,
    numerics: Numerics,
    placement: Placement,
    kept: dict[str, MemberLogits],
    group: PlacementGroup,
    run: str = "",
) -> Start:
    """What starts a teacher of these members, with the cores and the share of a GPU that it is to hold."""
    held = reservation.of_an_actor(placement)

    def start(members: list[Member], place: int | None) -> Any:
        reserved = PlacementGroupSchedulingStrategy(group, place) if place is not None else "DEFAULT"
        return TeacherActor.options(  # type: ignore[attr-defined]
            num_cpus=held["CPU"],
            num_gpus=held.get("GPU", 0.0),
            resources=dict(placement.roles),
            max_restarts=0,
            scheduling_strategy=reserved,
        ).remote(members, data, classes, layout, numerics, kept, run)

    return start
