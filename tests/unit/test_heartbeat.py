"""Whether a task runs: from its report until its attempt ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import pytest

from orchestrator.cluster import heartbeat, tasks
from orchestrator.cluster.heartbeat import Heartbeat
from orchestrator.cluster.resources import Placement
from orchestrator.cluster.tasks import Task
from workers.processes import Where

HERE = Where("node", 7)


@pytest.fixture
def beats() -> Heartbeat:
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


def test_a_task_whose_training_hangs_is_pending(beats: Heartbeat, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILENCE_S", "SILENCE", "SUSPECTED_S"):
        monkeypatch.setattr(heartbeat, name, 0.0)
    epoch: Any = SimpleNamespace(epoch=0)
    beats._pulses["member-0"].slowest_s = 1.0
    beats._take("member-0", epoch)
    assert beats.hung("member-0") == HERE and beats.where("member-0") is None


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
