"""The resources of a cluster, and the placement of the ensemble on it. Pure: no call of Ray."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.config.ensemble import EnsembleSpec
from workers.errors import RequestError
from workers.specs.base import Precision

ROLE_SHARE = 0.001
"""Share of a node's role that an actor or worker requests; so small that a node with 1 holds any number of them."""

UNITS = 10_000
"""Units that Ray counts of one core or GPU."""


@dataclass(frozen=True)
class Node:
    """The resources of one node."""

    cpus: float
    gpus: float
    roles: frozenset[str] = frozenset()
    """The node's roles, from `autoscaler.ROLES`."""
    memory: float = 0.0
    """Bytes of main memory for work; 0 where Ray does not report it."""
    object_store: float = 0.0
    """Bytes of Ray's shared memory, which are apart from `memory`; 0 where Ray does not report it."""


@dataclass(frozen=True)
class Machines:
    """The nodes that the cluster has or may add. `cuda`: torch sees CUDA where Ray assigns a GPU."""

    nodes: tuple[Node, ...]
    cuda: bool
    borrowed: bool = False
    """Whether the same process had connected to Ray before the run, so that Ray outlives the run."""
    gpu_memory: float = 0.0
    """Bytes of the smallest GPU's memory; 0 where there is none or it is unknown."""
    bfloat16: bool = False
    """Whether all GPUs compute in bfloat16 by hardware."""

    def of(self, role: str) -> Machines:
        """The nodes of a role; all nodes where none has that role. Those without cores and GPUs, such as a head with
        `--num-cpus 0`, run no work and are left out."""
        of_role = tuple(node for node in self.nodes if role in node.roles) or self.nodes
        return replace(self, nodes=tuple(node for node in of_role if node.cpus or node.gpus) or of_role)

    def asked(self, role: str) -> dict[str, float]:
        """The role's resource request, so that Ray places the work on its nodes."""
        return {role: ROLE_SHARE} if any(role in node.roles for node in self.nodes) else {}

    def left(self, placement: Placement) -> tuple[float, float]:
        """The cores and GPUs that teachers leave free on the student's nodes."""
        students = self.of("student")
        elsewhere = replace(self, nodes=tuple(n for n in self.of("teacher").nodes if n not in students.nodes))
        cpus = max(0.0, placement.actors * placement.num_cpus - elsewhere.cpus)
        gpus = max(0.0, placement.actors * placement.num_gpus - elsewhere.gpus)
        return students.cpus - cpus, students.gpus - gpus

    def settled(self, precision: Precision, device: str) -> Precision:
        """A precision as plan and keys record it: on a GPU `auto` is resolved, once for all nodes of the cluster.

        On a CPU `auto` is float32 by definition. It stays in keys, where earlier versions of Stillhouse wrote it.
        """
        if precision != "auto" or device != "cuda":
            return precision
        return "bfloat16" if self.bfloat16 else "float32"

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def least_memory(self) -> float:
        """Bytes of main memory of the smallest node, of those whose memory is known; 0 where it is of none."""
        return min((node.memory for node in self.nodes if node.memory), default=0.0)

    @property
    def least_object_store(self) -> float:
        """The same of Ray's shared memory."""
        return min((node.object_store for node in self.nodes if node.object_store), default=0.0)


@dataclass(frozen=True)
class Placement:
    """The placement of the ensemble: members, their actors, and the resources of each actor and training task."""

    size: int
    actors: int
    num_cpus: float
    num_gpus: float
    roles: Mapping[str, float] = field(default_factory=dict)
    """Role requests, so that Ray places them on the nodes of their role."""
    device: str = "cpu"
    """`cuda` where torch computes on the GPUs that Ray assigns, else `cpu`."""

    @property
    def held(self) -> dict[str, float]:
        """The resources of each task, in Ray's terms."""
        return {"CPU": self.num_cpus, **({"GPU": self.num_gpus} if self.num_gpus else {}), **self.roles}

    @property
    def options(self) -> dict[str, Any]:
        """The same resources as options of a Ray task."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "resources": dict(self.roles)}

    @property
    def threads(self) -> int:
        """Threads of an actor or task, independent of the number of actors, since threads can affect the last bit."""
        return max(1, int(self.num_cpus))

    def groups(self) -> list[range]:
        """The members of each actor: contiguous, in groups as even as possible."""
        edges = [round(actor * self.size / self.actors) for actor in range(self.actors + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def place(ensemble: EnsembleSpec, machines: Machines) -> Placement:
    """Decide how many members and actors the cluster can hold.

    Each member gets a GPU if there are enough; else several members share an actor. Without GPUs there are at most as
    many actors as cores. An actor runs on one node, so the remainder of each node stays unused.
    Raises: `RequestError` where the request exceeds the cluster.
    """
    asked = ensemble.resources_per_member
    roles, machines = machines.asked("teacher"), machines.of("teacher")
    largest = max(node.cpus for node in machines.nodes)
    if asked.num_cpus > largest:
        raise RequestError(
            f"ensemble.resources_per_member.num_cpus: asked for {asked.num_cpus:g} a member; the largest node has "
            f"{largest:g}. Ask for fewer, or add larger nodes."
        )
    num_gpus = (1.0 if machines.gpus else 0.0) if asked.num_gpus == "auto" else asked.num_gpus
    slots = at_once(Placement(1, 1, asked.num_cpus, num_gpus), machines)
    size = max(slots, 1) if ensemble.count is None else ensemble.count
    if asked.num_gpus != "auto" and num_gpus and times(num_gpus, machines.gpus) < size:
        raise RequestError(
            f"ensemble.resources_per_member.num_gpus: asked for {num_gpus:g} for each of {size} members, "
            f"{num_gpus * size:g} in all; the cluster has {machines.gpus:g}. Set `num_gpus: auto` to let members share "
            "what there is, ask for fewer, or add nodes."
        )
    if not slots:
        raise RequestError(
            f"ensemble.resources_per_member: no node has {asked.num_cpus:g} cores and {num_gpus:g} GPUs for a member. "
            "Found " + ", ".join(f"{node.cpus:g} and {node.gpus:g}" for node in machines.nodes) + ". Ask for less, or "
            "add such nodes."
        )
    if isinstance(ensemble.weights, tuple) and len(ensemble.weights) != size:
        raise RequestError(
            f"ensemble.weights: {len(ensemble.weights)} numbers for {size} members; expected one each. Set "
            "`ensemble.size`."
        )
    actors = min(size, slots)
    if ensemble.num_actors != "auto":
        actors = min(size, ensemble.num_actors)
        if actors > slots:
            raise RequestError(
                f"ensemble.num_actors: asked for {actors}; the cluster holds {slots} at once. Set it to `auto` or "
                f"at most {slots}, or add nodes."
            )
    return Placement(size, actors, asked.num_cpus, num_gpus, roles, "cuda" if machines.cuda and num_gpus else "cpu")


def at_once(placement: Placement, machines: Machines) -> int:
    """How many tasks with the resources of a member run at the same time."""
    return sum(_slots(node, placement.num_cpus, placement.num_gpus) for node in machines.of("teacher").nodes)


def _slots(node: Node, num_cpus: float, num_gpus: float) -> int:
    """How many actors fit on a node. A share of a GPU belongs to one GPU, whose remainder may be too small."""
    by_cpu = times(num_cpus, node.cpus)
    if not num_gpus:
        return by_cpu
    return min(by_cpu, int(node.gpus) * times(num_gpus, 1.0) if num_gpus < 1 else times(num_gpus, node.gpus))


def times(asked: float, there: float) -> int:
    """How many times `asked` of a resource fits into `there`, in Ray's units, which are exact where floats are not."""
    return round(there * UNITS) // max(1, round(asked * UNITS))
