"""The machines of a cluster that does not run yet, from its file: a Ray cluster YAML, or a RayCluster of Kubernetes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster import autoscaler, ray_private
from orchestrator.cluster.resources import Machines
from workers.errors import RequestError

TYPES, HEAD_TYPE = "available_node_types", "head_node_type"
MANIFESTS = {"RayCluster": "", "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
"""Kinds of KubeRay, each with the key below `spec` that has a cluster's; none: `spec` itself."""
UNLIMITED = 2**31 - 1
"""KubeRay's own `maxReplicas` where a group has none."""


def machines(path: str) -> Machines:
    """The largest cluster that the file at `path` allows. Every GPU counts as one that torch sees.

    Raises: `RequestError` where the file is no description of a cluster, or does not say what its nodes have.
    """
    config = _checked(path, _configuration(path))
    head = config[TYPES][config[HEAD_TYPE]]
    nodes = autoscaler.nodes([{**head["resources"], autoscaler.HEAD: 1.0}], config)
    return Machines(nodes, cuda=any(node.gpus for node in nodes))


def _checked(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with numbers where numbers belong. Raises: `RequestError` with node type and key."""
    types = config[TYPES]
    if not isinstance(types, dict):
        raise RequestError(f"'{path}', {TYPES}: found {_shown(types)}; expected a mapping of names to node types.")
    checked = {str(name): _node_type(f"'{path}', node type '{name}'", kind) for name, kind in types.items()}
    head = config.get(HEAD_TYPE)
    if head not in checked:
        raise RequestError(f"'{path}', {HEAD_TYPE}: found {_shown(head)}; expected one of {', '.join(checked)}.")
    return {**config, TYPES: checked, **_most(f"'{path}', max_workers", config)}


def _node_type(where: str, kind: Any) -> dict[str, Any]:
    """A node type with its resources as numbers."""
    resources = kind.get("resources") if isinstance(kind, dict) else None
    if not resources:
        raise RequestError(
            f"{where} has no `resources`, which the cloud fills in when it starts. Expected them in the file, such as "
            "`resources: {CPU: 4, GPU: 1}`."
        )
    if not isinstance(resources, dict):
        raise RequestError(f"{where}, resources: found {_shown(resources)}; expected such as {{CPU: 4, GPU: 1}}.")
    amounts = {name: _amount(f"{where}, resources.{name}", amount) for name, amount in resources.items()}
    return {**kind, "resources": amounts, **_most(f"{where}, max_workers", kind)}


def _amount(where: str, found: Any) -> float:
    try:
        amount = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        amount = math.nan
    if not 0 <= amount < math.inf:
        unit = " of bytes" if where.endswith("memory") else ""
        raise RequestError(f"{where}: found {_shown(found)}; expected a number{unit} from 0.")
    return amount


def _most(where: str, of: Mapping[str, Any]) -> dict[str, int]:
    """`max_workers` where it is given."""
    return {"max_workers": _whole(where, of["max_workers"])} if "max_workers" in of else {}


def _whole(where: str, found: Any) -> int:
    amount = _amount(where, found)
    if amount != int(amount):
        raise RequestError(f"{where}: found {amount:g}; expected a whole number.")
    return int(amount)


def _shown(found: Any) -> str:
    return "nothing" if found is None else repr(found)


def _configuration(path: str) -> Mapping[str, Any]:
    """The cluster's configuration in the form of a cluster YAML."""
    try:
        documents = [each for each in yaml.safe_load_all(Path(path).read_text()) if isinstance(each, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"--cluster: '{path}' cannot be read ({error}). Expected a YAML file.") from error
    for document in documents:
        if document.get(TYPES):
            return document
        kind, spec = document.get("kind"), document.get("spec")
        key = MANIFESTS.get(kind) if isinstance(kind, str) else None
        if key is not None and spec and (not key or not isinstance(spec, dict) or key in spec):
            return _of_manifest(path, document)
    raise RequestError(
        f"--cluster: '{path}' has neither `{TYPES}`, as a Ray cluster YAML, nor a RayCluster of Kubernetes, so "
        "it does not tell what its machines have. For a cluster that runs, set RAY_ADDRESS instead."
    )


def _of_manifest(path: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration that KubeRay's autoscaler derives from a manifest of Kubernetes."""
    kind = document["kind"]
    try:
        key = MANIFESTS[kind]
        spec = _without_nothing(document["spec"][key] if key else document["spec"])
        groups = [_counted(path, group, spec) for group in spec.get("workerGroupSpecs", ())]
        named = {"metadata": {"namespace": "default", "name": "cluster"}, "spec": {**spec, "workerGroupSpecs": groups}}
        return ray_private.configuration_of_manifest(named)
    except RequestError:
        raise
    except Exception as error:  # Ray's own code raises several types for what is missing or of another type
        raise RequestError(
            f"--cluster: '{path}': its {kind} cannot be read ({type(error).__name__}: {error}). Expected the manifest "
            "that KubeRay takes."
        ) from error


def _without_nothing(of: Any) -> Any:
    """The same without keys that have no value, as Kubernetes reads them."""
    if isinstance(of, dict):
        return {key: _without_nothing(value) for key, value in of.items() if value is not None}
    return [_without_nothing(each) for each in of] if isinstance(of, list) else of


def _counted(path: str, group: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """A group of workers with its largest number as `maxReplicas`: without an autoscaler, its `replicas`.

    Raises: `RequestError` where the autoscaler has no limit.
    """
    where = f"'{path}', group '{group['groupName']}'"
    given = {"replicas": 0, "minReplicas": 0, "maxReplicas": UNLIMITED, "numOfHosts": 1}
    found = {name: _whole(f"{where}, {name}", group.get(name, number)) for name, number in given.items()}
    least, most = found["minReplicas"], found["maxReplicas"]
    if group.get("suspend"):
        least = most = 0
    elif not spec.get("enableInTreeAutoscaling"):
        most = min(max(found["replicas"], least), most)
    elif most >= UNLIMITED:
        raise RequestError(f"{where}, maxReplicas: found none, and its autoscaler has no other limit. Expected one.")
    return {**group, "minReplicas": min(least, most), "maxReplicas": most, "numOfHosts": found["numOfHosts"]}
