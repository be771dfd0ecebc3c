"""A student's workers lose their node, and none comes in its place: said, given up, and gone on with when one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.nodes import Nodes
from tests.chaos.test_exits import hear_ctrl_c
from tests.integration.test_jobs import wait_until
from tests.integration.test_jobs_on_nodes import events, prepared

pytestmark = pytest.mark.slow


def students_epochs(folder: Path) -> list[int]:
    return [event["epoch"] for event in events(folder) if event.get("system") == "student"]


@pytest.mark.parametrize("workers", ["1", "[1, 2]"])
def test_a_student_that_nobody_has_room_for_any_more(tmp_path: Path, workers: str) -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(prepared(tmp_path))]
    command += [f"--set=student.num_workers={workers}", "--set=ensemble.start_timeout_s=30"]

    def begin(nodes: Nodes) -> subprocess.Popen[str]:
        own = os.environ | {"RAY_ADDRESS": nodes.address}
        return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with Nodes(1, num_cpus=4) as nodes:
        running = begin(nodes)
        wait_until(lambda: len(students_epochs(tmp_path)) > 2, 300)  # the last may not be kept yet
        (raylet,) = nodes.raylets()
        nodes.lose(raylet)
        _, said = running.communicate(timeout=200)  # half a minute is Ray Train's to start others
        assert running.returncode == 1, said
        assert "no room on the cluster after 30 s for workers of the student (1). It has 1 node;" in said
        notes = [event["text"] for event in events(tmp_path) if event["event"] == "note"]
        assert sum(text.startswith("waiting for room for workers of the student") for text in notes) == 1

        nodes.add()
        again = begin(nodes)
        _, said = again.communicate(timeout=300)
        assert again.returncode == 0, said
    assert students_epochs(tmp_path).count(0) == 1  # gone on with, not begun anew


def test_who_waits_for_room_can_be_stopped(tmp_path: Path) -> None:
    """Ray Train hears nobody meanwhile."""
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(prepared(tmp_path))]
    with Nodes(1, num_cpus=4) as nodes:
        own = os.environ | {"RAY_ADDRESS": nodes.address}
        running = subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
        wait_until(lambda: bool(students_epochs(tmp_path)), 300)
        (raylet,) = nodes.raylets()
        nodes.lose(raylet)
        time.sleep(20)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=40)
        assert running.returncode == 130 and "the same command resumes" in said, said
