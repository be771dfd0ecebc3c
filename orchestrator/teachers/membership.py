"""Tracks the present members: starts, losses, returns and moves of their actors, and their mixture weights. Pure.

A change of the present members changes the mixture weights. Pending requests with the old weights are discarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from orchestrator.cluster import failures
from orchestrator.teachers import policy
from orchestrator.teachers.events import Leaving, Lost, Up
from orchestrator.teachers.instructions import (
    Check,
    Discard,
    Fail,
    Instruction,
    Kill,
    Note,
    Prepare,
    Release,
    Start,
)
from orchestrator.teachers.policy import Action, Kind, Loss
from orchestrator.teachers.slot import Actor, ActorSlot
from workers import ensemble
from workers.errors import RunError
from workers.faults import START


@dataclass(frozen=True)
class Rules:
    """The configured rules for lost teachers: `ensemble.on_member_loss` and `ensemble.start_timeout_s`."""

    on_member_loss: str
    start_timeout_s: float


class Membership:
    """The slots of a pool. Its methods append instructions to `out`."""

    def __init__(
        self,
        groups: Iterable[Sequence[str]],
        weights: Mapping[str, float],
        rules: Rules,
        stacked: bool | None,
        out: list[Instruction],
    ) -> None:
        """groups: the members of each actor. stacked: whether actors stack their members; None: the actors choose, and
        have to agree."""
        self.slots = [ActorSlot(place, list(names)) for place, names in enumerate(groups)]
        self.weights, self.rules, self.stacked, self.out = weights, rules, stacked, out
        self.numbers = count()
        self.is_open = False
        self.of_actor: dict[int, ActorSlot] = {}
        self.of_ask: dict[int, tuple[ActorSlot, int]] = {}
        """The slot and the piece of each request whose end still matters."""
        self.shares: dict[int, dict[str, float]] = {}
        """The weights of each slot's members, which sum to 1 over the present ones; empty until first needed."""

    # Current state

    def present(self) -> list[ActorSlot]:
        """The slots that have to answer each piece."""
        return [slot for slot in self.slots if not slot.away]

    def members(self) -> tuple[str, ...]:
        """The members that are present."""
        return tuple(name for slot in self.slots if not slot.away for name in slot.names)

    def counts(self) -> bool:
        """Whether a present member has a weight above 0."""
        return any(self.weights[name] > 0 for slot in self.slots if not slot.away for name in slot.names)

    def shares_of(self, slot: ActorSlot) -> dict[str, float]:
        """The weights of a present slot's members; all present members' weights sum to 1."""
        if not self.shares:
            names = self.members()
            all_of = dict(zip(names, ensemble.normalised([self.weights[name] for name in names]), strict=True))
            self.shares = {each.place: {name: all_of[name] for name in each.names} for each in self.present()}
        return self.shares[slot.place]

    # Start

    def open(self, now_s: float) -> None:
        for slot in self.slots:
            self._start(slot, now_s)

    def settle(self, now_s: float) -> None:
        """Open the pool once all present actors are up and agree on stacking."""
        present = self.present()
        if not self.counts() or not all(slot.is_up for slot in present):
            return
        choices = {slot.actor.stacked for slot in present if slot.actor is not None}
        if len(choices) > 1:
            self.stacked = False
            for slot in present:
                self._prepare(slot, now_s)
            return
        self.stacked, self.is_open = choices == {True}, True
        self.out.append(Check())

    def up(self, event: Up) -> None:
        """Handle an actor that is up: in its slot, as a successor, or in a slot without which the pool continued."""
        slot = self.of_actor.get(event.actor)
        if slot is None:
            return
        if slot.successor is not None and slot.successor.number == event.actor:
            self._move(slot)
        actor = slot.actor
        assert actor is not None
        actor.is_up, actor.node, actor.stacked = True, event.node, event.stacked
        slot.since_s, slot.slowest_s = event.now_s, max(slot.slowest_s, event.part_s)
        if slot.away:
            self._welcome(slot, actor, event.now_s)

    def _welcome(self, slot: ActorSlot, actor: Actor, now_s: float) -> None:
        """Use a slot again after its actor is up."""
        if self.stacked is False and actor.stacked:
            self._prepare(slot, now_s)  # it was started before the others agreed
            return
        slot.away = False
        if self.is_open:
            self.out.append(Check())
        self.ask_anew(now_s)
        self.out.append(Note("back", tuple(slot.names), ""))

    def leaving(self, event: Leaving) -> None:
        """Start a successor for each actor whose node will go away; the actor works on meanwhile."""
        for slot in self.present():
            if slot.node in event.nodes and slot.successor is None and not slot.stays:
                self.out.append(Note("moves", tuple(slot.names), "its node is about to go"))
                slot.successor = self._actor(slot, None, event.now_s)

    def check_starts(self, now_s: float) -> None:
        """End the run where a required actor is not up in time."""
        waited_for = [slot for slot in self.present() if not slot.is_up]
        late = [slot for slot in waited_for if self._is_late(slot, now_s)]
        if not self.counts():
            expected = [slot for slot in self.slots if slot.away and slot.actor is not None]
            late = expected if all(self._is_late(slot, now_s) for slot in expected) else late
        if late:
            self.out.append(
                Fail(
                    RunError(
                        f"the teacher of {', '.join(late[0].names)} was not up after `ensemble.start_timeout_s`, "
                        f"{self.rules.start_timeout_s:g} s"
                    ),
                    lists_free=True,
                )
            )

    def _is_late(self, slot: ActorSlot, now_s: float) -> bool:
        return slot.actor is not None and now_s - slot.actor.asked_s > self.rules.start_timeout_s

    # Loss

    def lost(self, event: Lost) -> None:
        """Apply `on_member_loss` to a lost actor; a lost successor is not replaced."""
        slot = self.of_actor.get(event.actor)
        if slot is None:
            return
        if slot.successor is not None and slot.successor.number == event.actor:
            self._refuse_successor(slot)
            return
        was_here = not slot.away
        members = tuple(name for name in event.members if name in slot.names) or tuple(slot.names)
        action = self._decide(slot, members, event)
        named = members if action in (Action.DROP, Action.FAIL) or event.kind is Kind.WRONG else tuple(slot.names)
        self.out.append(Note(action.value, named, event.evidence))
        if action is Action.FAIL:
            self.out.append(Fail(self._given_up(slot, members, event), event.cause))
            return
        slot.note_failure(event.at)
        if action is Action.DROP:
            self._drop(slot, members, event)
        else:
            self._restart(slot, event, away=action is Action.REWEIGHT)
            slot.attempts += 1
        if action is not Action.RESTART and was_here:
            self.ask_anew(event.now_s)

    def _decide(self, slot: ActorSlot, members: Sequence[str], event: Lost) -> Action:
        expected = [name for other in self.slots if other.actor is not None for name in other.names]
        loss = Loss(
            slot.attempts,
            others=sum(self.weights[name] > 0 for name in expected if name not in members),
            apart=event.kind is Kind.WRONG and len(members) < len(slot.names),
            repeated=self._is_repeated(slot, event),
        )
        return policy.decide(self.rules.on_member_loss, loss)

    def _is_repeated(self, slot: ActorSlot, event: Lost) -> bool:
        """Whether a fresh process failed at the same piece."""
        return event.at is not None and event.at == slot.failed_at

    def _restart(self, slot: ActorSlot, event: Lost, away: bool) -> None:
        self._vacate(slot, hung=event.kind is Kind.HUNG)
        slot.away = away
        self._start(slot, event.now_s, again=True)

    def _drop(self, slot: ActorSlot, members: Sequence[str], event: Lost) -> None:
        """Continue without the lost members; other members of the failed process restart in a new one."""
        if len(members) == len(slot.names):
            self._vacate(slot, hung=event.kind is Kind.HUNG)
            self._end_successor(slot)
            slot.away = True
            return
        slot.leave_out(members)
        if event.kind is not Kind.WRONG or event.at == START:
            self._restart(slot, event, away=True)

    def _given_up(self, slot: ActorSlot, members: Sequence[str], event: Lost) -> RunError:
        often = failures.often(slot.attempts, self._is_repeated(slot, event))
        when = {None: "", START: " as it started"}.get(event.at, f" at part {event.part} of the soft targets")
        return RunError(
            f"the teacher of {', '.join(members)} was lost{often}{when}: {(event.told or event.evidence).rstrip('.')}. "
            f"`ensemble.on_member_loss: {self.rules.on_member_loss}` ends the run. What was complete is kept; the same "
            "command resumes."
        )

    # Actors and their requests

    def _start(self, slot: ActorSlot, now_s: float, again: bool = False) -> None:
        """Start an actor in a slot. A pending successor is killed, since it may wait for the slot's own resources."""
        self._refuse_successor(slot)
        slot.actor = self._actor(slot, slot.place, now_s, again)

    def _actor(self, slot: ActorSlot, place: int | None, now_s: float, again: bool = False) -> Actor:
        actor = Actor(next(self.numbers), now_s)
        self.of_actor[actor.number] = slot
        self.out.append(Start(actor.number, tuple(slot.names), place, self.stacked, again))
        return actor

    def _prepare(self, slot: ActorSlot, now_s: float) -> None:
        assert slot.actor is not None
        slot.actor.is_up, slot.actor.asked_s = False, now_s
        self.out.append(Prepare(slot.actor.number, self.stacked))

    def _move(self, slot: ActorSlot) -> None:
        """Put the successor into its slot. The requests of its predecessor have to be repeated."""
        self._vacate(slot)
        slot.actor, slot.successor = slot.successor, None

    def _refuse_successor(self, slot: ActorSlot) -> None:
        if slot.successor is not None:
            self._end_successor(slot)
            slot.stays = True

    def _end_successor(self, slot: ActorSlot) -> None:
        if slot.successor is not None:
            self._kill(slot.successor)
            slot.successor = None

    def _vacate(self, slot: ActorSlot, hung: bool = False) -> None:
        """Release the actor of a slot, and its requests."""
        for ask in (*slot.asked.values(), *slot.outdated):
            del self.of_ask[ask]
        slot.asked.clear()
        slot.answered.clear()
        slot.outdated.clear()
        if slot.actor is not None:
            self._kill(slot.actor, hung)
            slot.actor = None

    def _kill(self, actor: Actor, hung: bool = False) -> None:
        del self.of_actor[actor.number]
        self.out.append(Kill(actor.number, hung))

    def ask_anew(self, now_s: float) -> None:
        """Discard pending answers, since the mixture weights have changed.

        Actors still compute them, because cancelling is worse. In Ray 2.60, an actor waits 30 s for the sequence number
        of a call that was cancelled before it was sent, and blocks meanwhile.
        """
        self.shares = {}
        for slot in self.present():
            done, computing = slot.take_asks()
            slot.since_s = max(slot.since_s, now_s)
            slot.outdated.update(computing)
            if computing:
                self.out.append(Discard(computing))
            self.release(done)

    def release(self, asks: tuple[int, ...]) -> None:
        """Forget requests whose answers are used or no longer needed."""
        for ask in asks:
            del self.of_ask[ask]
        if asks:
            self.out.append(Release(asks))

    def close(self) -> None:
        """Release every actor."""
        for slot in self.slots:
            self._vacate(slot)
            self._end_successor(slot)
