"""Single decisions of the pool's state. Whole passes under random faults are in `tests/simulation`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from orchestrator.teachers.events import Answered, Leaving, Lost, Open, Stream, Tick, Up
from orchestrator.teachers.instructions import (
    Ask,
    Check,
    Discard,
    Fail,
    Instruction,
    Kill,
    Note,
    Prepare,
    Reduce,
    Release,
    Retry,
    Start,
)
from orchestrator.teachers.membership import Rules
from orchestrator.teachers.policy import Kind
from orchestrator.teachers.slot import PATIENCE_S
from orchestrator.teachers.state import IN_FLIGHT, TASK_TIMEOUT_S, PoolState


def started(policy: str = "wait", groups: Sequence[Sequence[str]] = (["a"], ["b"]), parts: int = 8) -> PoolState:
    """A pool with actors 0, 1, ... up, that streams parts of one piece each."""
    weights = {name: 1.0 for group in groups for name in group}
    state = PoolState(groups, weights, Rules(policy, 60.0))
    state.handle(Open(0.0))
    for actor in range(len(groups)):
        state.handle(Up(0.0, actor, f"node {actor}", False, 0.0))
    state.handle(Stream(0.0, [(n, range(n, n + 1)) for n in range(parts)], reduces_on_workers=False, at_once=2))
    return state


def of(kind: type[Instruction], found: list[Instruction]) -> list[Instruction]:
    return [each for each in found if type(each) is kind]


def kinds(found: list[Instruction]) -> list[str]:
    return [type(each).__name__ for each in found]


def test_it_imports_no_ray() -> None:
    code = "import sys, orchestrator.teachers.state; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_members_that_share_an_actor_agree_on_how_they_are_computed() -> None:
    state = PoolState([["a", "b"], ["c", "d"]], dict.fromkeys("abcd", 1.0), Rules("wait", 60.0))
    assert state.handle(Open(0.0)) == [Start(0, ("a", "b"), 0, None), Start(1, ("c", "d"), 1, None)]
    assert state.handle(Up(1.0, 0, "n", True, 0.0)) == []
    assert state.handle(Up(2.0, 1, "n", False, 0.0)) == [Prepare(0, False), Prepare(1, False)]
    assert state.handle(Up(3.0, 1, "n", False, 0.0)) == [] and not state.is_open
    assert state.handle(Up(4.0, 0, "n", False, 0.0)) == [Check()] and state.is_open
    assert state.membership.stacked is False


def test_a_few_pieces_are_in_flight() -> None:
    state = PoolState([["a"], ["b"]], {"a": 1.0, "b": 3.0}, Rules("wait", 60.0))
    state.handle(Open(0.0))
    state.handle(Up(0.0, 0, "n", False, 0.0))
    state.handle(Up(0.0, 1, "n", False, 0.0))
    asks = state.handle(Stream(0.0, [(n, range(n, n + 1)) for n in range(20)], reduces_on_workers=False, at_once=3))
    assert [(ask.actor, ask.piece) for ask in asks if isinstance(ask, Ask)] == [
        (actor, piece) for actor in (0, 1) for piece in range(IN_FLIGHT)
    ]
    assert isinstance(asks[0], Ask) and asks[0].shares == {"a": 0.25} and asks[0].ahead == tuple(range(1, 20))
    first, second = state.awaited()
    assert state.handle(Answered(1.0, second)) == []
    reduce, *more = state.handle(Answered(1.0, first))
    assert isinstance(reduce, Reduce) and (reduce.part, reduce.members, reduce.asks) == (0, ("a", "b"), (first, second))
    assert more == []  # the piece that is reduced still counts


def test_the_others_go_on_with_their_weights_and_what_they_were_asked_is_discarded() -> None:
    state = started("reweight")
    _, second = state.awaited()
    state.handle(Answered(1.0, second))
    found = state.handle(Lost(2.0, 0, Kind.DIED, "ActorDiedError"))
    assert kinds(found) == ["Note", "Kill", "Start", "Discard", "Release", *["Ask"] * IN_FLIGHT]
    assert found[:2] == [Note("reweight", ("a",), "ActorDiedError"), Kill(0)]
    assert of(Release, found) == [Release((second,))]
    assert all(ask.shares == {"b": 1.0} for ask in found if isinstance(ask, Ask))
    (back,) = of(Start, found)
    assert isinstance(back, Start) and back.again
    found = state.handle(Up(9.0, back.actor, "n", False, 0.0))
    assert kinds(found)[:3] == ["Check", "Discard", "Note"] and kinds(found).count("Ask") == 2 * IN_FLIGHT


def test_an_actor_that_still_computes_what_is_discarded_is_not_hung() -> None:
    state = started("reweight")
    (discarded,) = of(Discard, state.handle(Lost(1.0, 0, Kind.DIED, "ActorDiedError")))
    assert isinstance(discarded, Discard)
    assert state.handle(Answered(25.0, discarded.asks[0])) == []
    assert state.handle(Tick(25.0 + PATIENCE_S)) == []
    found = state.handle(Tick(25.1 + PATIENCE_S))
    assert kinds(found)[:3] == ["Note", "Kill", "Start"] and Kill(1, hung=True) in found


def test_a_successor_takes_over_once_it_is_up() -> None:
    state = started()
    moves, start = state.handle(Leaving(1.0, frozenset({"node 1"})))
    assert moves == Note("moves", ("b",), "its node is about to go") and isinstance(start, Start)
    assert (start.members, start.place) == (("b",), None)
    assert state.handle(Leaving(2.0, frozenset({"node 1"}))) == []
    found = state.handle(Up(3.0, start.actor, "node 2", False, 0.0))
    assert found[0] == Kill(1) and kinds(found[1:]) == ["Ask"] * IN_FLIGHT


def test_a_successor_that_is_lost_is_not_replaced() -> None:
    state = started()
    _, start = state.handle(Leaving(1.0, frozenset({"node 1"})))
    assert isinstance(start, Start)
    assert state.handle(Lost(2.0, start.actor, Kind.FAILED, "OSError", at=-1)) == [Kill(start.actor)]
    assert state.handle(Leaving(3.0, frozenset({"node 1"}))) == []


def test_news_of_what_is_over_changes_nothing() -> None:
    state = started()
    asks = state.awaited()
    state.handle(Lost(1.0, 0, Kind.DIED, "ActorDiedError"))
    assert state.handle(Lost(1.0, 0, Kind.DIED, "ActorDiedError")) == []
    assert state.handle(Answered(1.0, asks[0], "answered (3, 2)")) == []
    assert state.handle(Up(1.0, 0, "n", False, 0.0)) == []


def test_an_actor_that_does_not_start_ends_the_run() -> None:
    state = PoolState([["a"]], {"a": 1.0}, Rules("wait", 60.0))
    state.handle(Open(5.0))
    assert state.handle(Tick(65.0)) == []
    (fail,) = state.handle(Tick(65.1))
    assert isinstance(fail, Fail) and fail.lists_free
    assert str(fail.error) == "the teacher of a was not up after `ensemble.start_timeout_s`, 60 s"
    assert state.handle(Up(66.0, 0, "n", False, 0.0)) == []


@pytest.mark.parametrize("on_workers", [False, True])
def test_a_task_that_takes_too_long_is_started_again(on_workers: bool) -> None:
    state = started(groups=[["a"]], parts=0)
    state.handle(Stream(0.0, [(0, range(1))], on_workers, at_once=1))
    (reduce,) = state.handle(Answered(1.0, state.awaited()[0]))
    assert isinstance(reduce, Reduce) and reduce.whole == on_workers
    assert state.handle(Tick(1.0 + TASK_TIMEOUT_S)) == []
    found = state.handle(Tick(1.1 + TASK_TIMEOUT_S))  # a thread of this process cannot be ended
    retried = [(each.failed, each.cancel) for each in found if isinstance(each, Retry)]
    assert retried == [(reduce.job, True)] * on_workers


def test_a_task_that_is_slow_and_not_hung_has_more_time_with_each_start() -> None:
    state = started(groups=[["a"]], parts=0)
    state.handle(Stream(0.0, [(0, range(1))], reduces_on_workers=True, at_once=1))
    state.handle(Answered(0.0, state.awaited()[0]))
    taken_s, began_s = 300.0, 0.0
    for second in range(1, 2000):
        if second - began_s >= taken_s:  # it has ended
            return
        if of(Retry, state.handle(Tick(float(second)))):
            began_s = float(second)
    pytest.fail("it was ended before its end, each time")
