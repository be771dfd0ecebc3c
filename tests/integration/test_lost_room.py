"""A student's workers lose their node, and none comes in its place: said, given up, and gone on with when one does."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests import commands
from tests.chaos.nodes import Nodes
from tests.commands import wait_until
from tests.integration.test_jobs_on_nodes import events, prepared

pytestmark = pytest.mark.slow


def students_epochs(folder: Path) -> list[int]:
    return [event["epoch"] for event in events(folder) if event.get("system") == "student"]


@pytest.mark.parametrize("workers", ["1", "[1, 2]"])
def test_a_student_that_nobody_has_room_for_any_more(tmp_path: Path, workers: str) -> None:
    command = [*commands.STILLHOUSE, "run", prepared(tmp_path)]
    command += [f"--set=student.num_workers={workers}", "--set=ensemble.start_timeout_s=30"]
    with Nodes(1, num_cpus=4) as nodes:
        variables = commands.environment(RAY_ADDRESS=nodes.address)
        with commands.running(*command, env=variables) as running:
            # The last epoch may not be kept yet.
            wait_until(lambda: len(students_epochs(tmp_path)) > 2, 300, process=running)
            (raylet,) = nodes.raylets()
            nodes.lose(raylet)
            _, said = running.communicate(timeout=200)  # half a minute is Ray Train's to start others
            assert running.returncode == 1, said
        assert "no room on the cluster after 30 s for workers of the student (1). It has 1 node;" in said
        notes = [event["text"] for event in events(tmp_path) if event["event"] == "note"]
        assert sum(text.startswith("waiting for room for workers of the student") for text in notes) == 1

        nodes.add()
        commands.output(*command, env=variables, timeout_s=300)
    assert students_epochs(tmp_path).count(0) == 1  # gone on with, not begun anew


def test_who_waits_for_room_can_be_stopped(tmp_path: Path) -> None:
    """Ray Train hears nobody meanwhile."""
    command = [*commands.STILLHOUSE, "run", prepared(tmp_path)]
    with Nodes(1, num_cpus=4) as nodes:
        variables = commands.environment(RAY_ADDRESS=nodes.address)
        with commands.running(*command, env=variables, preexec_fn=commands.restore_ctrl_c) as running:
            wait_until(lambda: students_epochs(tmp_path), 300, process=running)
            (raylet,) = nodes.raylets()
            nodes.lose(raylet)
            time.sleep(20)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=40)
            assert running.returncode == 130 and "the same command resumes" in said, said
