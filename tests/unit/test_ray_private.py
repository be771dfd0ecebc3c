"""What is private in Ray, tried against the installed version: each function still finds what it is for."""

from __future__ import annotations

import ast
import inspect
import os
import re
import time
from pathlib import Path

import pytest
import ray
from ray.autoscaler._private.kuberay import autoscaling_config

from orchestrator.cluster import ray_private

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"ray\.(_|core\.|autoscaler\._|util\._)")


@ray.remote(num_cpus=0)
class Waiter:
    def pid(self) -> int:
        return os.getpid()


def test_no_other_module_imports_what_is_private() -> None:
    for file in [*ROOT.glob("orchestrator/**/*.py"), *ROOT.glob("workers/**/*.py")]:
        if file.name == "ray_private.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if PRIVATE.match(name)], f"{file}:{getattr(node, 'lineno', 0)}"


@pytest.mark.usefixtures("small_ray")
def test_a_cluster_says_its_version() -> None:
    address = ray.get_runtime_context().gcs_address
    token = ray_private.stored_token()
    assert ray_private.cluster_version(address, token, timeout_s=30) == ray.__version__
    assert ray_private.cluster_version("127.0.0.1:1", token, timeout_s=1) == ""


@pytest.mark.usefixtures("small_ray")
def test_of_a_connected_ray() -> None:
    waiter = Waiter.remote()  # type: ignore[attr-defined]
    pid = ray.get(waiter.pid.remote())
    (found,) = ray_private.actors_of_this_job("Waiter")
    assert found["Pid"] == pid and found["Address"]["NodeID"] == ray.get_runtime_context().get_node_id()
    assert ray_private.actor_id(waiter) == found["ActorID"]
    ray.kill(waiter)
    until = time.monotonic() + 20
    while ray_private.actors_of_this_job("Waiter"):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert ray_private.draining_nodes() == set()
    assert [set(node) >= {"CPU", "memory"} for node in ray_private.free_by_node()] == [True]
    assert ray_private.head_answers(5.0)
    assert Path(ray_private.log_folder(), "gcs_server.out").exists()
    node = ray_private.local_node()
    assert {name for name, _ in node.live_processes()} >= {"raylet", "gcs_server"} and node.dead_processes() == []
    assert node.head is True
    address = ray.get_runtime_context().gcs_address
    assert ray_private.bootstrap_address(address) == address


@pytest.mark.usefixtures("small_ray")
def test_the_head_takes_its_own_token_alone() -> None:
    address = ray.get_runtime_context().gcs_address
    assert ray_private.stored_token() == os.environ["RAY_AUTH_TOKEN"]
    assert ray_private.head_accepts(address, os.environ["RAY_AUTH_TOKEN"], 10.0)
    assert not ray_private.head_accepts(address, "0" * 64, 10.0)
    with pytest.raises(ConnectionError):
        ray_private.head_accepts("127.0.0.1:1", "", 2.0)


def test_a_package_has_what_is_not_left_out(tmp_path: Path) -> None:
    for name in ("kept.py", "left[1].py", "sub/kept.txt", "sub/gone.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rules = ["*.log", "/" + ray_private.escaped_pattern("left[1].py")]
    seen: list[str] = []
    left_out = ray_private.left_out_of_package(tmp_path, rules)
    ray_private.walk_package(tmp_path, [left_out], lambda path: seen.append(path.relative_to(tmp_path).as_posix()))
    assert {name for name in seen if (tmp_path / name).is_file()} == {"kept.py", "sub/kept.txt"}
    assert ray_private.package_bytes_limit() >= 2**20


def test_kuberay_takes_a_cluster_and_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    class InCluster(autoscaling_config.AutoscalingConfigProducer):
        """As in a pod, where the service account is mounted."""

        def __init__(self, ray_cluster_name: str, ray_cluster_namespace: str) -> None:
            assert (ray_cluster_name, ray_cluster_namespace) == ("speech", "research")

        def __call__(self) -> dict[str, object]:
            return {"max_workers": 3}

    of_ray = inspect.signature(autoscaling_config.AutoscalingConfigProducer.__init__)
    assert list(of_ray.parameters) == list(inspect.signature(InCluster.__init__).parameters)
    monkeypatch.setattr(autoscaling_config, "AutoscalingConfigProducer", InCluster)
    assert ray_private.kuberay_configuration("speech", "research") == {"max_workers": 3}


@pytest.mark.parametrize(("provider", "most"), [("aws", 2), ("vsphere", 5), ("external", 2), ("no such", 2)])
def test_the_workers_of_a_cluster_that_names_no_number(provider: str, most: int) -> None:
    assert ray_private.most_workers(provider) == most


def test_a_manifest_of_kuberay_is_read() -> None:
    def template(cpu: str) -> dict[str, object]:
        return {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"cpu": cpu, "memory": "1Gi"}}}]}}

    group = {"groupName": "w", "replicas": 0, "minReplicas": 0, "maxReplicas": 3, "rayStartParams": {}}
    spec = {
        "headGroupSpec": {"rayStartParams": {}, "template": template("2")},
        "workerGroupSpecs": [{**group, "template": template("4")}],
    }
    found = ray_private.configuration_of_manifest({"metadata": {"name": "c", "namespace": "n"}, "spec": spec})
    types = found["available_node_types"]
    assert [types[name]["resources"]["CPU"] for name in (found["head_node_type"], "w")] == [2, 4]
    assert types["w"]["max_workers"] == 3 and types["w"]["resources"]["memory"] == 2**30


def test_every_function_is_tried() -> None:
    """By a test of the unit suite that calls it, or reads from it what its caller does."""
    tests = "\n".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    public = {name for name, value in vars(ray_private).items() if inspect.isfunction(value) and name[0] != "_"}
    elsewhere = {"temporary_folder"}  # of `local_ray`, which calls it
    untried = {name for name in public if f"ray_private.{name}(" not in tests} - elsewhere
    assert len(public) > 10 and not untried
