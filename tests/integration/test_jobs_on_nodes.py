"""Jobs of a cluster of several nodes, of which some are lost, and whose driver may be: what comes out is the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest

from tests.chaos.monkey import outcome, run_until_complete
from tests.chaos.nodes import Nodes
from tests.commands import processes, wait_until
from tests.integration import test_soft_targets_on_their_way as on_their_way
from tests.integration.test_jobs import Head, submitting
from tests.makers import MODELS, blobs

pytestmark = pytest.mark.slow

DRIVER, SUPERVISOR = b"orchestrator.cli\0run", b"ray::JobSupervisor"
TEACHER, STUDENT = b"ray::TeacherActor", b"ray::RayTrainWorker"
AWAY_S = 3.0
"""How long a lost node is missing."""


def prepared(folder: Path) -> Path:
    """A run whose pass and whose student last long enough for a node to be lost meanwhile; a node for each teacher."""
    changes = {"ensemble__size": 3, "ensemble__resources_per_member": {"num_cpus": 1}, "data__unlabeled": "more.npz"}
    recipe = {"epochs": 2, "batch_size": 500, "learning_rate": 2.0e-3}
    path = on_their_way.prepared(
        folder,
        **changes,
        ensemble__model={"factory": "models:slow"},
        student__training=recipe | {"epochs": 40},
        student__baseline_training=recipe,
    )
    (folder / "models.py").write_text(MODELS + on_their_way.SLOW)
    np.savez(folder / "more.npz", x=blobs(40_000, 5)[0])
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes of the run on a Ray of its own."""
    folder = prepared(tmp_path_factory.mktemp("undisturbed")).parent
    run_until_complete(folder, None)
    return outcome(folder)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with Nodes(3, jobs=True, num_cpus=1) as up:
        yield up


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "runs" / "small" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def in_the_pass(folder: Path) -> bool:
    store = folder / "runs" / "small" / "soft_targets"
    return bool(list(store.glob("*/part-*.parquet"))) and not list(store.glob("*/manifest.json"))


def in_the_students_training(folder: Path) -> bool:
    return any(event["event"] == "epoch" and event["system"] == "student" for event in events(folder))


def node_of(nodes: Nodes, title: bytes) -> int:
    """The raylet of a node that hosts such a process."""
    process = processes(nodes.mark, title)[0]
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def handed_in(nodes: Nodes, path: Path) -> AbstractContextManager[Popen[str]]:
    return submitting(Head(nodes.dashboard, path.parent), path, "--follow")


@pytest.mark.parametrize(
    ("when", "whose"), [(in_the_pass, TEACHER), (in_the_students_training, STUDENT)], ids=["pass", "student"]
)
def test_a_node_is_lost(
    when: Callable[[Path], bool], whose: bytes, nodes: Nodes, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    path = prepared(tmp_path)
    with handed_in(nodes, path) as job:
        wait_until(lambda: when(tmp_path), 400, process=job)
        nodes.replace(node_of(nodes, whose), AWAY_S)
        lost_at = len(events(tmp_path))
        out, err = job.communicate(timeout=400)
        assert job.returncode == 0, out + err
    assert outcome(tmp_path) == undisturbed
    said = events(tmp_path)
    assert any(event["event"] == "epoch" and event["system"] == "student" for event in said[lost_at:])
    assert whose is STUDENT or any(event["event"] == "teacher lost" for event in said)


@pytest.mark.parametrize("who", [DRIVER, SUPERVISOR], ids=["driver", "supervisor"])
def test_the_driver_is_lost_after_a_node(who: bytes, nodes: Nodes, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """The same command goes on from what was complete. Without the job's supervisor its driver is ended, too."""
    path = prepared(tmp_path)
    with handed_in(nodes, path) as job:
        wait_until(lambda: in_the_pass(tmp_path), 400, process=job)
        nodes.replace(node_of(nodes, TEACHER), AWAY_S)
        wait_until(lambda: any(event["event"] == "teacher lost" for event in events(tmp_path)), 300, process=job)
        (victim,) = processes(nodes.mark, who)
        os.kill(victim, signal.SIGKILL)
        _, err = job.communicate(timeout=100)
        assert job.returncode == 1 and "failed" in err
    wait_until(lambda: not processes(nodes.mark, DRIVER), 30)
    before = len(events(tmp_path))
    assert in_the_pass(tmp_path)

    with handed_in(nodes, path) as again:
        out, err = again.communicate(timeout=400)
        assert again.returncode == 0, out + err
    assert outcome(tmp_path) == undisturbed
    report = json.loads((tmp_path / "runs" / "small" / "report.json").read_text())
    assert {stage["name"] for stage in report["stages"] if stage["reused"]} == {"members", "predictions", "baseline"}
    trained = {event["system"] for event in events(tmp_path)[before:] if event["event"] == "epoch"}
    assert trained == {"student"}
