"""Whether a task runs: from its report until its attempt ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import pytest

from orchestrator.cluster import heartbeat, tasks
from orchestrator.cluster.heartbeat import SILENCE_S, SUSPECTED_S, Heartbeat
from orchestrator.cluster.resources import Placement
from orchestrator.cluster.tasks import Task
from workers.processes import Where

HERE = Where("node", 7)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock of the heartbeat that shows `now_s`."""
    found = SimpleNamespace(now_s=0.0)
    found.monotonic = lambda: found.now_s
    monkeypatch.setattr(heartbeat, "time", found)
    return found


@pytest.fixture
def beats(clock: SimpleNamespace) -> Heartbeat:
    """A heartbeat with the report of one task."""
    found = Heartbeat(MagicMock(), MagicMock())
    found._listener = threading.current_thread()  # alive
    found.expect({"member-0": 5})
    found._take("member-0", HERE)
    assert found.where("member-0") == HERE
    return found


def test_a_task_whose_attempt_ended_is_pending(beats: Heartbeat) -> None:
    beats.forget("member-0")
    assert beats.where("member-0") is None


def ended(epoch: int) -> Any:
    return SimpleNamespace(epoch=epoch)


@pytest.mark.parametrize(("slowest_s", "limit_s"), [(1.0, 120.0), (12.0, 120.0), (60.0, 600.0)])
def test_a_training_hangs_after_120_s_and_10_times_its_slowest_epoch(
    slowest_s: float, limit_s: float, beats: Heartbeat, clock: SimpleNamespace
) -> None:
    clock.now_s += slowest_s
    beats._take("member-0", ended(0))
    clock.now_s += 0.1  # a later epoch is quicker
    beats._take("member-0", ended(1))
    for step_s in (limit_s - 0.1, 0.2, SUSPECTED_S - 0.1):  # too early, suspected, not for long enough
        clock.now_s += step_s
        assert beats.hung("member-0") is None and beats.where("member-0") == HERE
    clock.now_s += 0.2
    assert beats.hung("member-0") == HERE
    assert beats.where("member-0") is None and beats.hung("member-0") is None, "pending, and returned once"
    beats.on_note.assert_called_once()  # type: ignore[attr-defined]
    assert "member-0 has reported nothing for" in beats.on_note.call_args[0][0]  # type: ignore[attr-defined]


def test_a_report_ends_the_suspicion_of_a_hang(beats: Heartbeat, clock: SimpleNamespace) -> None:
    clock.now_s += 1.0
    beats._take("member-0", ended(0))
    clock.now_s += SILENCE_S + 1.0
    assert beats.hung("member-0") is None
    beats._take("member-0", ended(1))
    clock.now_s += 10 * (SILENCE_S + 1.0) + 1.0  # as long as this slow epoch allows
    assert beats.hung("member-0") is None


@pytest.mark.parametrize("epochs", [0, 5])
def test_a_training_before_its_first_epoch_or_after_its_last_is_not_hung(
    epochs: int, beats: Heartbeat, clock: SimpleNamespace
) -> None:
    for epoch in range(epochs):
        clock.now_s += 1.0
        beats._take("member-0", ended(epoch))
    for _ in range(2):
        clock.now_s += 1e6
        assert beats.hung("member-0") is None


def test_the_process_of_a_failed_attempt_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its retry would seem to run while it waits for resources, and wait without a limit."""
    results = iter([RuntimeError("no card"), None])

    def get(ref: str) -> None:
        if (error := next(results)) is not None:
            raise error

    ray = SimpleNamespace(
        wait=lambda refs, **_: (refs, []), get=get, exceptions=SimpleNamespace(RayTaskError=RuntimeError)
    )
    monkeypatch.setattr(tasks, "ray", ray)
    monkeypatch.setattr(tasks, "is_any_alive", lambda places: True)
    monkeypatch.setattr(Task, "start", lambda task: task.name)
    watch = MagicMock()
    list(tasks.completed([Task("a", None, (), Placement(1, 1, 1.0, 0.0))], MagicMock(), watch))
    assert watch.forget.call_args_list == [call("a")]
