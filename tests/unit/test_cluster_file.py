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
    "no nodes": (
        "{max_workers: 0, available_node_types: {w: {resources: {CPU: 1}, max_workers: 3}}}", "no node; expected"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_cluster_is_refused(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    (tmp_path / "cluster.yaml").write_text(content)
    with pytest.raises(RequestError, match=expected):
        cluster_file.machines(str(tmp_path / "cluster.yaml"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gone\.yaml' cannot be read"):
        cluster_file.machines(str(tmp_path / "gone.yaml"))
