"""Clusters of several nodes: what the YAML says is how large the ensemble is, and nodes come and go."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests import commands
from tests.commands import free_port, wait_until
from tests.integration.test_jobs import RAY, environment
from tests.makers import write_config

ROOT = Path(__file__).parents[2]
HEAD = "ray.head.default"
"""What the fake provider calls the head's type, whatever the file says."""
pytestmark = pytest.mark.slow


def members(folder: Path) -> int:
    report = json.loads((folder / "report.json").read_text())
    return sum(system["role"] == "member" for system in report["systems"])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's defaults in a home without a token, so that neither the head nor those that join it want one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def autoscaled() -> Iterator[Callable[[int], str]]:
    """Starts a cluster whose autoscaler adds up to so many nodes for teachers; returns its address."""
    folder, started = Path(tempfile.mkdtemp(prefix="scale-")), ExitStack()

    def start(most: int) -> str:
        port = free_port()
        kinds = {
            HEAD: {"resources": {"CPU": 1, "student": 1}, "node_config": {}, "max_workers": 0},
            "teacher": {"resources": {"CPU": 1, "GPU": 1, "teacher": 1}, "node_config": {}, "max_workers": most},
        }
        lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
                 "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
                 "rsync_filter")  # fmt: skip
        config: dict[str, Any] = {
            "cluster_name": "fake",
            "max_workers": most,
            "idle_timeout_minutes": 0.1,
            "upscaling_speed": 100.0,
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": f"127.0.0.1:{port}",
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
                "head_node_id": FAKE_HEAD_NODE_ID,
            },
            "auth": {},
            "available_node_types": kinds,
            "head_node_type": HEAD,
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **{name: [] for name in lists},
        }
        (folder / "cluster.yaml").write_text(yaml.safe_dump(config))
        own = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        command = [str(RAY), "start", "--head", "--block", "--port", str(port)]
        command += ["--num-cpus", "1", "--resources", '{"student": 1}', "--include-dashboard", "false"]
        command += ["--object-store-memory", str(300 * 2**20)]
        command += [f"--autoscaling-config={folder}/cluster.yaml", "--temp-dir", str(folder)]
        with (folder / "head.txt").open("wb") as output:
            how = {"stdout": output, "stderr": output, "cwd": folder}
            started.enter_context(commands.running(*command, env=environment() | own, **how))
        wait_until(lambda: "Ray runtime started" in (folder / "head.txt").read_text())
        return f"127.0.0.1:{port}"

    with started:
        yield start
    shutil.rmtree(folder, ignore_errors=True)


def nodes(address: str) -> int:
    count = "import ray; ray.init(logging_level='ERROR'); print('nodes', sum(node['Alive'] for node in ray.nodes()))"
    shown = commands.output(sys.executable, "-c", count, env=environment() | {"RAY_ADDRESS": address})
    (found,) = [line for line in shown.splitlines() if line.startswith("nodes ")]  # beside warnings of Ray
    return int(found.split()[1])


@pytest.mark.parametrize("most", [2, 3])
def test_max_workers_is_the_size(most: int, autoscaled: Callable[[int], str], tmp_path: Path) -> None:
    """Up as members wait for nodes; down when there is nothing for them to do."""
    address = autoscaled(most)
    assert nodes(address) == 1
    path = write_config(tmp_path, ensemble__size="auto", ensemble__resources_per_member={"num_cpus": 1})
    joining = environment() | {"RAY_ADDRESS": address}
    commands.output(*commands.STILLHOUSE, "run", path, env=joining, timeout_s=500)
    assert members(tmp_path / "runs" / "small") == most
    wait_until(lambda: nodes(address) == 1, 90)


@pytest.mark.parametrize(("count", "has", "asked", "expected"), [(5, (2, 2), "auto", 10), (5, (2, 0), 0.5, 20)])
def test_teachers_over_several_nodes(
    count: int, has: tuple[int, int], asked: Any, expected: int, tmp_path: Path
) -> None:
    """Ten with a declared GPU each, twenty on half a core."""
    resources = {"num_cpus": 1 if asked == "auto" else asked}
    path = write_config(tmp_path, ensemble__size="auto", ensemble__resources_per_member=resources)
    on_nodes = [sys.executable, "-m", "tests.chaos.nodes", count, *has]
    command = [*on_nodes, *commands.STILLHOUSE, "run", path]
    commands.output(*command, env=environment(), timeout_s=580, cwd=ROOT)
    assert members(tmp_path / "runs" / "small") == expected
    (manifest,) = (tmp_path / "runs" / "small" / "soft_targets").glob("*/manifest.json")
    assert all(len(part["members"]) == expected for part in json.loads(manifest.read_text())["parts"])


def test_storage_that_nodes_do_not_share_is_refused(tmp_path: Path) -> None:
    """One node has a file system of its own in place of the folder, as another machine would."""
    if os.geteuid() != 0:
        pytest.skip("a file system can only be mounted by root")
    path = write_config(tmp_path, storage=str(tmp_path / "mine" / "runs"))
    (tmp_path / "mine").mkdir()
    node = """
import sys, time
from ray._private.node import Node
from ray._private.parameter import RayParams
where = {"redis_address": sys.argv[1], "gcs_address": sys.argv[1], "node_manager_port": 0}
has = {"num_cpus": 1, "object_store_memory": 150 * 2**20, "min_worker_port": 0, "max_worker_port": 0}
started = Node(RayParams(**where, **has, include_log_monitor=False, dashboard_agent_listen_port=None), head=False)
time.sleep(200)
"""
    (tmp_path / "node.py").write_text(node)
    script = f"""
import os, subprocess, sys, time
from tests.chaos.nodes import Nodes
with Nodes(1) as nodes:
    start = f"{sys.executable} {tmp_path}/node.py {{nodes.address}}"
    node = subprocess.Popen(["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs {tmp_path}/mine && exec " + start])
    import ray
    ray.init(nodes.address, logging_level="ERROR")
    until = time.monotonic() + 60
    while sum(each["Alive"] for each in ray.nodes()) < 3 and time.monotonic() < until:
        time.sleep(0.5)
    ray.shutdown()
    command = [sys.executable, "-m", "orchestrator.cli", "run", "{path}"]
    done = subprocess.run(command, env=os.environ | {{"RAY_ADDRESS": nodes.address}})
    node.terminate()
    node.wait()
sys.exit(done.returncode)
"""
    done = commands.run(sys.executable, "-c", script, env=environment(), timeout_s=300, cwd=ROOT)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is a folder that 127.0.0.1 of the cluster's 3 nodes cannot see" in done.stderr
    assert not (tmp_path / "mine" / "runs").exists()
