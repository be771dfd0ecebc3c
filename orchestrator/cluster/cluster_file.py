"""The machines of a cluster that does not run yet, from its file: a Ray cluster YAML, or a RayCluster of Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster import autoscaler, ray_private
from orchestrator.cluster.resources import Machines
from workers.errors import RequestError

TYPES = "available_node_types"


def machines(path: str) -> Machines:
    """The largest cluster that the file at `path` allows. Every GPU counts as one that torch sees.

    Raises: `RequestError` where the file is no description of a cluster, or does not say what its nodes have.
    """
    config = _configuration(path)
    types: Mapping[str, Any] = config[TYPES]
    head = config.get("head_node_type", "")
    for name, kind in types.items():
        if not (kind or {}).get("resources"):
            raise RequestError(
                f"'{path}': node type '{name}' has no `resources`, which the cloud fills in when it starts. Expected "
                "them in the file, such as `resources: {CPU: 4, GPU: 1}`."
            )
    there = [{**types[head]["resources"], autoscaler.HEAD: 1.0}] if head in types else []
    nodes = autoscaler.nodes(there, config)
    if not nodes:
        raise RequestError(f"'{path}': no node; expected a node type with CPUs and `max_workers` above 0.")
    return Machines(nodes, cuda=any(node.gpus for node in nodes))


def _configuration(path: str) -> Mapping[str, Any]:
    """The cluster's configuration in the form of a cluster YAML."""
    try:
        documents = [each for each in yaml.safe_load_all(Path(path).read_text()) if isinstance(each, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"--cluster: '{path}' cannot be read ({error}). Expected a YAML file.") from error
    for document in documents:
        if document.get(TYPES):
            return document
        spec = document.get("spec") or {}
        cluster = spec.get("rayClusterSpec") if document.get("kind") == "RayJob" else spec
        if document.get("kind") in ("RayCluster", "RayJob") and cluster:
            return ray_private.configuration_of_manifest(
                {"metadata": {"namespace": "default", "name": "cluster"}, "spec": cluster}
            )
    raise RequestError(
        f"--cluster: '{path}' has neither `{TYPES}`, as a Ray cluster YAML, nor a RayCluster of Kubernetes. For a "
        "cluster that runs, set RAY_ADDRESS instead."
    )
