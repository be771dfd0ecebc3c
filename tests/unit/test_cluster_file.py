"""Machines of a cluster that does not run, from its file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from orchestrator.cluster import cluster_file
from workers.errors import RequestError

CLUSTERS = Path(__file__).parents[2] / "clusters"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "kuberay.yaml"])
def test_the_shipped_clusters_have_ten_teachers_a_student_and_a_head(name: str) -> None:
    found = cluster_file.machines(str(CLUSTERS / name))
    assert found.cuda and Counter(min(node.roles, default="head") for node in found.nodes) == {
        "teacher": 10, "student": 1, "head": 1
    }  # fmt: skip
    assert {(node.cpus, node.gpus) for node in found.of("teacher").nodes} == {(4.0, 1.0)}
    if name == "kuberay.yaml":
        assert {node.memory for node in found.of("student").nodes} == {2.0**34}


@pytest.mark.parametrize("name", ["local.yaml", "compose.yaml"])
def test_files_that_do_not_say_what_their_machines_have(name: str) -> None:
    with pytest.raises(RequestError, match=r"what its machines have\. .* set RAY_ADDRESS instead"):
        cluster_file.machines(str(CLUSTERS / name))


KUBERAY = """
apiVersion: ray.io/v1
kind: RayCluster
spec:
  enableInTreeAutoscaling: true
  headGroupSpec:
    rayStartParams: {num-cpus: "0"}
    template: {spec: {containers: [{name: ray, resources: {limits: {memory: 8Gi}}}]}}
  workerGroupSpecs:
    - groupName: teachers
      replicas: 2
      minReplicas: 1
      maxReplicas: 3
      rayStartParams: {resources: '"{\\"teacher\\": 1}"'}
      template:
        spec:
          containers:
            - {name: ray, resources: {limits: {cpu: "4", memory: 16Gi, nvidia.com/gpu: "1"}, requests: {cpu: "2"}}}
            - {name: sidecar, resources: {limits: {cpu: "9"}}}
"""
TEACHERS = {(4.0, 1.0, 2.0**34): 3}
HEAD_NODE = {(0.0, 0.0, 2.0**33): 1}
MANIFESTS: dict[str, tuple[tuple[str, str], dict[tuple[float, float, float], int]]] = {
    # what is replaced in it, by what; and the worker nodes: cores, GPUs, bytes of memory, and how many
    "the most that the autoscaler adds": (("", ""), TEACHERS),
    "no autoscaler": (("enableInTreeAutoscaling: true", ""), {(4.0, 1.0, 2.0**34): 2}),
    "no autoscaler, at least so many": (
        ("enableInTreeAutoscaling: true\n", "\n", "replicas: 2", "replicas: 0"), {(4.0, 1.0, 2.0**34): 1}
    ),
    "only replicas": (
        ("enableInTreeAutoscaling: true\n", "\n", "minReplicas: 1", "", "maxReplicas: 3", ""), {(4.0, 1.0, 2.0**34): 2}
    ),
    "several hosts": (("replicas: 2", "numOfHosts: 4"), {(4.0, 1.0, 2.0**34): 12}),
    "suspended": (("replicas: 2", "suspend: true"), {}),
    "requests alone": (("limits: {cpu: \"4\", memory: 16Gi, nvidia.com/gpu: \"1\"}, ", ""), {(2.0, 0.0, 0.0): 3}),
    "parts of a core": (("cpu: \"4\", memory: 16Gi", "cpu: 2500m, memory: 1500M"), {(3.0, 1.0, 1.5e9): 3}),
    "numbers": (("cpu: \"4\", memory: 16Gi", "cpu: 6, memory: 2e9"), {(6.0, 1.0, 2e9): 3}),
    "start parameters": (
        ("Params: {resources", "Params: {num-cpus: \"3\", num-gpus: \"2\", memory: \"1000\", resources"),
        {(3.0, 2.0, 1000.0): 3},
    ),
    "resources of a group": (
        ("replicas: 2", "resources: {CPU: \"7\", GPU: \"1\", memory: 4Gi, teacher: \"1\"}"), {(7.0, 1.0, 2.0**32): 3}
    ),
    "nothing of a key": (("rayStartParams: {num-cpus", "labels:\n    rayStartParams: {num-cpus"), TEACHERS),
    "a job": (
        ("kind: RayCluster\nspec:\n", "kind: RayJob\nspec:\n rayClusterSpec:\n"), TEACHERS
    ),
    "a service": (("kind: RayCluster\nspec:\n", "kind: RayService\nspec:\n rayClusterConfig:\n"), TEACHERS),
    "a job on the cluster, before it": (
        ("apiVersion", "kind: RayJob\nspec: {clusterSelector: {ray.io/cluster: a}}\n---\napiVersion"), TEACHERS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_kind_of_kuberay_manifest_is_read(name: str, tmp_path: Path) -> None:
    replaced, workers = MANIFESTS[name]
    content = KUBERAY
    for there, instead in zip(replaced[::2], replaced[1::2], strict=True):
        assert there in content
        content = content.replace(there, instead, 1)
    (tmp_path / "cluster.yaml").write_text(content)
    found = cluster_file.machines(str(tmp_path / "cluster.yaml"))
    assert Counter((node.cpus, node.gpus, node.memory) for node in found.nodes) == workers | HEAD_NODE
    assert not workers or len(found.of("teacher").nodes) == sum(workers.values())
    assert found.cuda == any(gpus for _, gpus, _ in workers)


def test_a_cluster_of_a_head_alone(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(KUBERAY.partition("  workerGroupSpecs")[0].replace('"0"', '"8"'))
    (node,) = cluster_file.machines(str(tmp_path / "cluster.yaml")).nodes
    assert (node.cpus, node.gpus) == (8.0, 0.0)


@pytest.mark.parametrize(
    ("there", "instead", "expected"),
    [
        (
            "      maxReplicas: 3\n",
            "",
            "group 'teachers', maxReplicas: found none, and its autoscaler has no other limit",
        ),
        ("maxReplicas: 3", "maxReplicas: three", "group 'teachers', maxReplicas: found 'three'; expected a number"),
        ("replicas: 2", "numOfHosts: 1.5", "group 'teachers', numOfHosts: found 1.5; expected a whole number"),
        ("16Gi", "16GiB", "cannot be read .*16GiB"),
        ('num-cpus: "0"', "", "cannot be read .*CPU"),
    ],
)
def test_a_wrong_manifest_is_named(there: str, instead: str, expected: str, tmp_path: Path) -> None:
    assert there in KUBERAY
    (tmp_path / "cluster.yaml").write_text(KUBERAY.replace(there, instead, 1))
    with pytest.raises(RequestError, match=expected):
        cluster_file.machines(str(tmp_path / "cluster.yaml"))


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
