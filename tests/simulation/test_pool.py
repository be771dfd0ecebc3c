"""The pool keeps its promises in every simulated schedule, and the simulation detects faulty pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cluster import failures
from orchestrator.teachers import instructions, policy, state
from orchestrator.teachers.events import Answered, AnswersLost
from orchestrator.teachers.membership import Membership
from orchestrator.teachers.parts import Parts, PartUnderWay
from orchestrator.teachers.policy import Action
from orchestrator.teachers.slot import Actor, ActorSlot
from orchestrator.teachers.state import PoolState
from tests.simulation.__main__ import replay, run
from tests.simulation.promises import Broken
from tests.simulation.schedule import draw
from tests.simulation.world import World

SCHEDULES = 20_000
FOUND = (876131,)
"""Further schedules that once broke a promise: a fourth start after a member had been excluded."""
NOTICED_WITHIN = 500
"""Number of schedules within which each mutation must be detected."""


def test_every_schedule_keeps_the_promises() -> None:
    for seed in (*range(SCHEDULES), *FOUND):
        run(seed)


def test_a_schedule_replays_with_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for _ in range(2):
        replay(3)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "Open(now_s=0.0)" in shown[0] and "-> Start(actor=0" in shown[0] and "seed 3 holds" in shown[0]


class Counting(World):
    """Counts instructions, and actions that are reported to observers."""

    def __init__(self, seed: int, counts: Counter[str]) -> None:
        super().__init__(draw(seed))
        handle = self.state.handle

        def counted(event: Any) -> list[instructions.Instruction]:
            done = handle(event)
            counts.update(each.action if isinstance(each, instructions.Note) else type(each).__name__ for each in done)
            return done

        self.state.handle = counted  # type: ignore[method-assign]


def test_schedules_reach_everything_that_a_pool_does() -> None:
    """The schedules cover all instructions and actions, so that no check is vacuous."""
    counts: Counter[str] = Counter()
    for seed in range(1000):
        world = Counting(seed, counts)
        world.run()
        counts["complete"] += world.failure is None
    actions = {action.value for action in Action} | {"back", "moves", "complete"}
    kinds = {kind.__name__ for kind in instructions.Instruction.__subclasses__()} - {"Note"}
    assert min(counts[each] for each in actions | kinds) >= 20, counts
    assert 500 < counts["complete"] < 900


Patch = Callable[[pytest.MonkeyPatch], None]


def replaced(owner: Any, name: str, by: Any) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, by)


def _only_forget_shares(self: Membership, now_s: float) -> None:
    self.shares = {}


def _keep_what_is_made(self: PartUnderWay, members: tuple[str, ...]) -> list[int]:
    self.members = members
    return []


def _forget_without_kill(self: Membership, actor: Actor, hung: bool = False) -> None:
    del self.of_actor[actor.number]


def _forget_successor(self: Membership, slot: ActorSlot) -> None:
    slot.successor = None


def _finish_in_any_order(self: Parts) -> Any:
    for part in [part for part in self.under_way if part.made is not None]:
        self.under_way.remove(part)
        yield part.number, part.made


def _use_wrong_answers(self: PoolState, event: Any) -> None:
    answered(self, type(event)(event.now_s, event.ask))


def _blame_nobody(self: PoolState, event: Any) -> None:
    answers_lost(self, type(event)(event.now_s, event.job, None, event.evidence, event.error))


def _go_on_with_the_old_share(self: Membership, slot: ActorSlot) -> dict[str, float]:
    return {name: self.weights[name] / sum(self.weights.values()) for name in slot.names}


def _restart_whatever_is_said(on_member_loss: str, loss: policy.Loss) -> Action:
    return Action.RESTART if on_member_loss == "fail" else decide(on_member_loss, loss)


def _reweight_whatever_is_said(on_member_loss: str, loss: policy.Loss) -> Action:
    return decide("reweight" if on_member_loss == "wait" else on_member_loss, loss)


answered, answers_lost, decide = PoolState._answered, PoolState._answers_lost, policy.decide

MUTATIONS: dict[str, Patch] = {
    "answers asked with other weights are used": replaced(Membership, "ask_anew", _only_forget_shares),
    "weights are not scaled to those that are present": replaced(Membership, "shares_of", _go_on_with_the_old_share),
    "a part goes on with other members": replaced(PartUnderWay, "begin_anew", _keep_what_is_made),
    "a lost actor is not released": replaced(Membership, "_kill", _forget_without_kill),
    "a successor is not released": replaced(Membership, "_end_successor", _forget_successor),
    "an actor that comes back is not used": replaced(Membership, "_welcome", lambda *_: None),
    "a hung actor is waited for": replaced(PoolState, "_check_answers", lambda *_: None),
    "a slow actor is taken for hung": replaced(ActorSlot, "patience_s", 3.0),
    "an actor that does not start is waited for": replaced(Membership, "check_starts", lambda *_: None),
    "a task that hangs is waited for": replaced(PoolState, "_check_tasks", lambda *_: None),
    "restarts have no budget": replaced(policy, "may_restart", lambda attempts, repeated: not repeated),
    "the budget is one restart less": replaced(failures, "MAX_ATTEMPTS", failures.MAX_ATTEMPTS - 1),
    "a piece that always fails is tried again": replaced(Membership, "_is_repeated", lambda *_: False),
    "`fail` starts actors again": replaced(policy, "decide", _restart_whatever_is_said),
    "`wait` goes on without members": replaced(policy, "decide", _reweight_whatever_is_said),
    "members without weight go on alone": replaced(Membership, "counts", lambda self: any(self.present())),
    "parts are handed on as they are written": replaced(Parts, "finished", _finish_in_any_order),
    "a job is not tried again": replaced(state, "TRIES", 1),
    "a job is tried for ever": replaced(state, "TRIES", 10**9),
    "a wrong answer is used": lambda patch: patch.setitem(state._HANDLERS, Answered, _use_wrong_answers),
    "no actor is taken for lost with its answer": lambda patch: patch.setitem(
        state._HANDLERS, AnswersLost, _blame_nobody
    ),
    "more is asked for than is to be in flight": replaced(state, "IN_FLIGHT", 12),
    "more jobs are begun than is allowed": replaced(Parts, "is_full", False),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_pool_that_is_wrong_is_noticed(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(Broken, match=r"replay: python -m tests\.simulation --seed"):
        for seed in range(NOTICED_WITHIN):
            run(seed)
