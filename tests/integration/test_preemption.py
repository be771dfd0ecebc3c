"""A node that is about to be taken away, and says so: its teacher is elsewhere before it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.chaos.monkey import outcome, prepare
from tests.chaos.nodes import Nodes
from tests.commands import processes, wait_until

pytestmark = pytest.mark.slow
GRACE_S = 60


def prepared(folder: Path) -> Path:
    """A run whose pass lasts long enough for a notice to come meanwhile: half a second a part and more."""
    prepare(folder)
    models = folder / "models.py"
    models.write_text(models.read_text().replace("time.sleep(0.02)", "time.sleep(0.6)"))
    return folder


def command_in(folder: Path) -> list[object]:
    return [*commands.STILLHOUSE, "run", folder / "config.yaml", "--set=ensemble.size=2"]


def hosts_of_teachers(nodes: Nodes) -> set[int]:
    """The raylets that are parents of teachers' processes."""
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in processes(nodes.mark, b"ray::TeacherActor")]
    return {int(stat.rpartition(")")[2].split()[1]) for stat in stats}


def notice(nodes: Nodes, node: Any) -> None:
    """What a cloud's agent, or `ray drain-node`, tells the cluster."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    taken, why = GcsClient(address=nodes.address).drain_node(
        node.node_id, reason, "spot", int(1000 * (time.time() + GRACE_S))
    )
    assert taken, why


def test_a_teacher_leaves_its_node_in_good_time(tmp_path: Path) -> None:
    """Three nodes for two teachers: the third is where one of them goes; what comes out is the same."""
    with Nodes(3, num_cpus=1) as nodes:
        variables = commands.environment(RAY_ADDRESS=nodes.address)
        commands.output(*command_in(prepared(tmp_path / "undisturbed")), env=variables, timeout_s=300)

        folder = prepared(tmp_path / "disturbed")
        with commands.running(*command_in(folder), env=variables, stderr=subprocess.STDOUT) as running:
            wait_until(lambda: list(folder.glob("runs/small/soft_targets/*/part-*")), 300, process=running)
            hosts = hosts_of_teachers(nodes)
            raylet, node = next((pid, node) for pid, node in nodes.raylets().items() if pid in hosts)
            notice(nodes, node)
            events = folder / "runs/small/events.jsonl"
            wait_until(lambda: '"teacher moves"' in events.read_text(), 60, process=running)
            wait_until(lambda: raylet not in hosts_of_teachers(nodes), 60, process=running)
            os.kill(raylet, signal.SIGKILL)
            said, _ = running.communicate(timeout=300)
            assert running.returncode == 0, said
    happened = [json.loads(line)["event"] for line in events.read_text().splitlines()]
    assert happened.count("teacher moves") == 1 and "teacher lost" not in happened, said
    assert "moves to another node (its node is about to go)" in said
    assert outcome(folder) == outcome(tmp_path / "undisturbed")
