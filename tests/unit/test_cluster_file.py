"""Machines of a cluster that does not run, from its file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.cluster import cluster_file
from workers.errors import RequestError

CLUSTERS = Path(__file__).parents[2] / "clusters"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "kuberay.yaml"])
def test_the_shipped_clusters(name: str) -> None:
    found = cluster_file.machines(str(CLUSTERS / name))
    assert found.cuda and Counter(min(node.roles, default="head") for node in found.nodes) == {
        "teacher": 10, "student": 1, "head": 1
    }  # fmt: skip
    assert {(node.cpus, node.gpus) for node in found.of("teacher").nodes} == {(4.0, 1.0)}
    if name == "kuberay.yaml":
        assert {node.memory for node in found.of("student").nodes} == {2.0**34}


BAD = {
    "nothing": ("", "has neither `available_node_types`"),
    "other": ("services: {head: {}}", "set RAY_ADDRESS instead"),
    "broken": ("a: [", "cannot be read"),
    "no resources": ("available_node_types: {head: {node_config: {}}}", "node type 'head' has no `resources`"),
    "a list": ("available_node_types: [a]", r"available_node_types: found \['a'\]; expected a mapping"),
    "no head": (
        "available_node_types: {w: {resources: {CPU: 1}}}", "head_node_type: found nothing; expected one of w"
    ),
    "a manifest": ("{kind: RayCluster, spec: {a: 1}}", r"its RayCluster cannot be read \(KeyError"),
    "a list as one": ("{kind: RayJob, spec: [a]}", r"its RayJob cannot be read \(TypeError"),
}  # fmt: skip
CLUSTER = """
head_node_type: head
max_workers: 3
available_node_types:
  head: {resources: {CPU: 2}}
  w: {resources: {CPU: 4, memory: 8e9}, max_workers: 2}
"""
WRONG = {
    "head": ("head_node_type: head", "head_node_type: hed", "head_node_type: found 'hed'; expected one of head, w"),
    "memory": ("8e9", "8GB", "node type 'w', resources.memory: found '8GB'; expected a number of bytes from 0"),
    "cores": ("CPU: 4", "CPU: four", "node type 'w', resources.CPU: found 'four'; expected a number from 0"),
    "negative": ("CPU: 4", "CPU: -4", "node type 'w', resources.CPU: found -4"),
    "yes": ("CPU: 4", "CPU: yes", "node type 'w', resources.CPU: found True"),
    "nothing": ("max_workers: 3", "max_workers:", "cluster.yaml', max_workers: found nothing; expected a number"),
    "a share": ("max_workers: 2", "max_workers: 1.5", "node type 'w', max_workers: found 1.5; expected a whole"),
    "a list": ("{CPU: 2}", "[CPU]", r"node type 'head', resources: found \['CPU'\]; expected such as"),
    "a text": ("{resources: {CPU: 2}}", "large", "node type 'head' has no `resources`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_with_its_node_type(name: str, tmp_path: Path) -> None:
    there, instead, expected = WRONG[name]
    (tmp_path / "cluster.yaml").write_text(CLUSTER.replace(there, instead, 1))
    with pytest.raises(RequestError, match=expected):
        cluster_file.machines(str(tmp_path / "cluster.yaml"))


@pytest.mark.parametrize(
    ("provider", "workers"), [("", 2), ("provider: {type: aws}", 2), ("provider: {type: vsphere}", 5), ("provider:", 2)]
)
def test_without_max_workers_there_are_as_many_as_by_rays_default(provider: str, workers: int, tmp_path: Path) -> None:
    content = CLUSTER.replace("max_workers: 3", provider).replace(", max_workers: 2", "")
    (tmp_path / "cluster.yaml").write_text(content)
    found = cluster_file.machines(str(tmp_path / "cluster.yaml"))
    assert Counter(node.cpus for node in found.nodes) == {2.0: 1, 4.0: workers}
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    assert Counter(node.memory for node in cluster_file.machines(str(tmp_path / "cluster.yaml")).nodes)[8e9] == 2


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_cluster_is_refused(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    (tmp_path / "cluster.yaml").write_text(content)
    with pytest.raises(RequestError, match=expected):
        cluster_file.machines(str(tmp_path / "cluster.yaml"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gone\.yaml' cannot be read"):
        cluster_file.machines(str(tmp_path / "gone.yaml"))
