"""Whether resources are missing, and how it is told, without a cluster."""

from __future__ import annotations

import pytest

from orchestrator.cluster import ray_private, reservation
from orchestrator.cluster.reservation import Need, Waiting, amounts, of_teachers
from orchestrator.cluster.resources import Placement
from workers.errors import RunError

TEACHERS = of_teachers(Placement(4, 2, num_cpus=1.0, num_gpus=0.0))
WORKERS = Need("workers of the student", 2, {"CPU": 0.0121, "student": 0.001}, {"student": 0.001})
ON_GPUS = Need("workers of the student", 2, {"CPU": 0.0625, "GPU": 1.0}, {"GPU": 1.0})


@pytest.mark.parametrize(
    ("need", "free", "has_room"),
    [
        (TEACHERS, [{"CPU": 1.98}], True),
        (TEACHERS, [{"CPU": 1.9}], True),
        (TEACHERS, [{"CPU": 0.95}, {"CPU": 0.95}], True),
        (TEACHERS, [{"CPU": 1.5}, {"CPU": 0.9}], False),
        (TEACHERS, [{"CPU": 0.2}], False),
        (TEACHERS, [], False),
        (WORKERS, [{"CPU": 0.1, "student": 1.0}], True),
        (WORKERS, [{"CPU": 8.0}], False),
        (WORKERS, [{"CPU": 0.0242, "student": 1.0}], True),
        (ON_GPUS, [{"CPU": 8.0, "GPU": 1.0}], False),
        (ON_GPUS, [{"CPU": 8.0, "GPU": 1.0}] * 2, True),
    ],
)
def test_only_missing_room_is_noted(
    need: Need, free: list[dict[str, float]], has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation, "PATIENCE_S", -1.0)
    monkeypatch.setattr(ray_private, "free_by_node", lambda: free)
    monkeypatch.setattr(reservation, "inventory", lambda: "1 node; 2 CPU; free now: 0.2 CPU")
    told: list[str] = []
    waiting = Waiting(need, 60.0, told.append)
    for _ in range(3):
        waiting.check()
    assert len(told) == 1 and told[0].startswith(
        f"the cluster has room for {need}" if has_room else f"waiting for room for {need}"
    )
    assert "0.0121" not in told[0] and "0.95" not in told[0]
    waiting.check(granted=lambda: True)
    assert len(told) == 2 - has_room  # Ray has given it meanwhile
    waiting.timeout_s = -1.0
    with pytest.raises(RunError, match="Ray did not start" if has_room else "no room on the cluster after -1 s for"):
        waiting.check()


def test_needs_are_described_by_number_and_resources() -> None:
    assert str(TEACHERS) == "teachers (2, 1 CPU each)"
    assert str(WORKERS) == "workers of the student (2, on a node for the role 'student' each)"
    assert str(ON_GPUS) == "workers of the student (2, 1 GPU each)"
    assert str(Need("workers of the baseline", 1, {"CPU": 0.0121}, {})) == "workers of the baseline (1)"
    assert amounts({"CPU": 0.5, "GPU": 0.25}) == "0.5 CPU, 0.25 GPU"


def test_tasks_wait_for_room_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservation, "PATIENCE_S", -1.0)
    monkeypatch.setattr(ray_private, "free_by_node", lambda: [{"CPU": 1.0}])
    told: list[str] = []
    members = Need("members in training", 8, {"CPU": 1.0}, {"CPU": 1.0})
    Waiting(members, 60.0, told.append, least=1).check()
    assert told == [
        "the cluster has room for members in training (8, 1 CPU each); waiting for Ray to start the processes"
    ]
