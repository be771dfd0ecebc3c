"""The cluster YAMLs: valid, of the versions that are tested, and the setting for the ensemble's size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.cluster.autoscaler import HEAD, MOST_NODES, ROLES, possible
from orchestrator.cluster.resources import Machines, Node, Placement, at_once, place
from orchestrator.config.ensemble import EnsembleSpec
from workers import __version__

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
PINNED = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
RAY_HEAD = {HEAD: 1.0, "CPU": 4.0}


def loaded(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTERS / name).read_text()))


def kuberay() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())}


def autoscalers(name: str) -> dict[str, Any]:
    """The configuration as the autoscaler on the head has it."""
    if name == "kuberay.yaml":
        cluster = kuberay()["RayCluster"]
        cluster["metadata"]["namespace"] = "default"
        return dict(autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster))
    return dict(prepare_config(loaded(name)))


def size(config: dict[str, Any], alive: list[dict[str, float]]) -> int:
    """Of an ensemble with a GPU for each member where the YAML has some."""
    ensemble = EnsembleSpec.model_validate(
        {"size": "auto", "model": {"kind": "python", "factory": "models:mlp"}, "training": {"epochs": 1}}
    )
    nodes = tuple(
        Node(n.get("CPU", 0.0), n.get("GPU", 0.0), frozenset(ROLES) & n.keys()) for n in possible(alive, config)
    )
    return place(ensemble, Machines(nodes, cuda=True)).size


@pytest.mark.parametrize("name", ["local.yaml", "aws.yaml", "gcp.yaml"])
def test_ray_validates_the_cluster_file(name: str) -> None:
    validate_config(prepare_config(loaded(name)))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "kuberay.yaml"])
def test_max_workers_of_the_teachers_is_the_size(name: str) -> None:
    config = autoscalers(name)
    assert size(config, [RAY_HEAD]) == 10
    config["available_node_types"]["teacher"]["max_workers"] = 4
    assert size(config, [RAY_HEAD]) == 4
    up = {"CPU": 4.0, "GPU": 1.0, "teacher": 1.0}
    assert size(config, [RAY_HEAD, up, up]) == 4, "those that are there already are some of them"
    config["max_workers"] = 3
    assert size(config, [RAY_HEAD]) == 3, "and no more than the cluster takes in all"


@pytest.mark.parametrize(("cores", "asked", "slots"), [(1, 0.2, 5), (1, 0.1, 10), (3, 0.3, 10), (1, 0.3, 3), (8, 3, 2)])
def test_shares_of_a_core_are_counted_exactly(cores: int, asked: float, slots: int) -> None:
    assert at_once(Placement(1, 1, asked, 0.0), Machines((Node(cores, 0),), cuda=False)) == slots
    assert at_once(Placement(1, 1, 0.1, asked), Machines((Node(64, cores),), cuda=True)) == {
        0.2: 5, 0.1: 10, 0.3: 3 * cores, 3: 2
    }[asked]  # fmt: skip


def test_what_is_there_is_what_counts_without_an_autoscaler() -> None:
    up = {"CPU": 2.0, "teacher": 1.0}
    assert possible([RAY_HEAD, up], None) == [RAY_HEAD, up]
    assert possible([RAY_HEAD], loaded("local.yaml")) == [RAY_HEAD]  # what its machines have Ray finds out there


def test_an_autoscaler_without_a_limit_has_one() -> None:
    worker = {"CPU": 2.0, "teacher": 1.0}
    config = {"available_node_types": {"w": {"resources": worker, "max_workers": 2**31 - 1}}, "max_workers": 2**31 - 1}
    assert len(possible([RAY_HEAD, worker], config)) == 1 + MOST_NODES


def test_versions_are_those_that_are_tested() -> None:
    for name in ("aws.yaml", "gcp.yaml"):
        assert loaded(name)["docker"]["image"] == f"rayproject/ray:{PINNED['ray']}-py311-gpu"
    dockerfile = (CLUSTERS / "Dockerfile").read_text()
    assert set(re.findall(r"rayproject/ray:(\S+?)-", dockerfile)) == {PINNED["ray"]}
    assert kuberay()["RayCluster"]["spec"]["rayVersion"] == PINNED["ray"]
    images = re.findall(r"image: (stillhouse:\S+)", (CLUSTERS / "kuberay.yaml").read_text())
    images += [service["image"] for service in loaded("compose.yaml")["services"].values()]
    assert set(images) == {f"stillhouse:{__version__}"}
    for name in ("local.yaml", "aws.yaml", "gcp.yaml"):
        assert any("--constraint /tmp/stillhouse/constraints.txt" in c for c in loaded(name)["setup_commands"])


def test_ray_reports_no_usage() -> None:
    for name in ("local.yaml", "aws.yaml", "gcp.yaml"):
        config = loaded(name)
        commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
        starts = [command for command in commands if "ray start" in command]
        assert len(starts) == 2 and all("RAY_USAGE_STATS_ENABLED=0 " in command for command in starts)
    assert "\nENV RAY_USAGE_STATS_ENABLED=0\n" in (CLUSTERS / "Dockerfile").read_text()  # of Kubernetes and containers


def test_kuberay_has_what_the_operator_asks_for() -> None:
    cluster, job = kuberay()["RayCluster"], kuberay()["RayJob"]
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["spec"]["entrypoint"].startswith("stillhouse run ")
    spec = cluster["spec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    for role in ROLES:
        assert json.loads(json.loads(groups[role]["rayStartParams"]["resources"])) == {role: 1}
        assert groups[role]["minReplicas"] <= groups[role]["replicas"] <= groups[role]["maxReplicas"]
    for group in (spec["headGroupSpec"], *groups.values()):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys()
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert {"containerPort": 8080, "name": "metrics"} in container["ports"]
    spot = groups["teacher"]["template"]["spec"]
    assert spot["nodeSelector"] and "nodeSelector" not in groups["student"]["template"]["spec"]
    assert "nvidia.com/gpu" in spot["containers"][0]["resources"]["limits"]


def test_teachers_are_on_spot_machines_and_the_student_is_not() -> None:
    kinds = loaded("aws.yaml")["available_node_types"]
    assert kinds["teacher"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in kinds["student"]["node_config"]
    kinds = loaded("gcp.yaml")["available_node_types"]
    assert kinds["teacher"]["node_config"]["scheduling"][0]["provisioningModel"] == "SPOT"
    assert "provisioningModel" not in kinds["student"]["node_config"]["scheduling"][0]


def test_compose_has_a_head_teachers_and_a_tracker() -> None:
    services = loaded("compose.yaml")["services"]
    assert set(services) == {"head", "teacher", "mlflow"}
    for name, role in (("head", "student"), ("teacher", "teacher")):
        assert f'--resources={{"{role}":1}}' in services[name]["command"]  # a list: a string would lose its quotes
        assert isinstance(services[name]["command"], list)
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert "shared:/shared" in service["volumes"]
