"""The maximum size of a cluster, from the autoscaler's own source: the cluster YAML, or a RayCluster of Kubernetes.

So `max_workers` (`maxReplicas` in Kubernetes) of the node type with the resource `teacher` limits the ensemble's size.
A cluster without an autoscaler has a fixed size.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster import ray_private
from orchestrator.cluster.resources import Node

logger = logging.getLogger(__name__)

HEAD = "node:__internal_head__"
"""A resource that only the head has."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ASK_TIMEOUT_S = 30.0
MOST_NODES = 10_000
"""The most nodes that count; KubeRay's groups without `maxReplicas` allow two billion."""
ROLES = ("teacher", "student")
"""Resources that assign node types to a role in a cluster's YAML."""

Resources = Mapping[str, float]


def possible(alive: Sequence[Resources], config: Mapping[str, Any] | None) -> list[Resources]:
    """The resources of each node that a cluster has, or that its autoscaler may add by `config` (its YAML).

    Existing nodes count against the `max_workers` of the type with the same CPUs, GPUs and roles, and of the whole
    cluster.
    """
    found = [*alive]
    if config is None:
        return found
    types = dict(config.get("available_node_types") or {})
    types.pop(config.get("head_node_type", ""), None)
    provider = str((config.get("provider") or {}).get("type", ""))
    allowed = config["max_workers"] if "max_workers" in config else ray_private.most_workers(provider)
    most = min(int(allowed), MOST_NODES) - sum(HEAD not in node for node in alive)
    for kind in sorted(types.values(), key=lambda kind: "teacher" not in kind.get("resources", {})):
        resources = {name: float(amount) for name, amount in (kind.get("resources") or {}).items()}
        if not resources.get("CPU"):
            continue
        there = sum(_alike(node, resources) for node in alive if HEAD not in node)
        added = max(0, min(int(kind.get("max_workers", most + there)) - there, most))
        found += [resources] * added
        most -= added
    return found


def nodes(alive: Sequence[Resources], config: Mapping[str, Any] | None) -> tuple[Node, ...]:
    """The nodes of `possible`."""
    return tuple(
        Node(
            cpus=float(has.get("CPU", 0.0)),
            gpus=float(has.get("GPU", 0.0)),
            roles=frozenset(ROLES) & has.keys(),
            memory=float(has.get("memory", 0.0)),
            object_store=float(has.get("object_store_memory", 0.0)),
        )
        for has in possible(alive, config)
    )


def configuration() -> Mapping[str, Any] | None:
    """The autoscaler's configuration, from the head; None without an autoscaler."""
    import ray

    if not any(HEAD in node["Resources"] for node in ray.nodes() if node["Alive"]):
        return None

    @ray.remote(num_cpus=0, resources={HEAD: 0.001})
    def ask(gcs_address: str) -> Mapping[str, Any] | None:
        return _on_kubernetes() or _of_monitor(gcs_address)

    asked = ask.remote(ray.get_runtime_context().gcs_address)
    try:
        found: Mapping[str, Any] | None = ray.get(asked, timeout=ASK_TIMEOUT_S)
        return found
    except ray.exceptions.RayError as error:
        logger.warning("how far the cluster may grow is not known (%s): what it has now is what counts", error)
        return None


def _alike(node: Resources, kind: Resources) -> bool:
    return all(node.get(name, 0.0) == kind.get(name, 0.0) for name in ("CPU", "GPU", *ROLES))


def _of_monitor(gcs_address: str) -> Mapping[str, Any] | None:
    """The file in the monitor's `--autoscaling-config`; the monitor of this cluster runs on the head."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        path = options.get("--autoscaling-config")
        if path and options.get("--gcs-address") == gcs_address:
            found: Mapping[str, Any] = yaml.safe_load(Path(path).expanduser().read_text())
            return found
    return None


def _on_kubernetes() -> Mapping[str, Any] | None:
    """The configuration that KubeRay's autoscaler derives from the RayCluster."""
    name = os.environ.get("RAY_CLUSTER_NAME")
    if not name or not SERVICE_ACCOUNT.exists():
        return None
    try:
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        return ray_private.kuberay_configuration(name, namespace)
    except Exception as error:  # any error of the HTTP client; a pod without an autoscaler may lack the permission
        logger.warning("the RayCluster '%s' cannot be read (%s): what the cluster has now is what counts", name, error)
        return None
