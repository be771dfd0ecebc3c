"""What a cluster has, and what of the ensemble and the student it holds. Pure: no call of Ray."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.config.schema import EnsembleSpec, StudentSpec
from workers.errors import RequestError

ROLE_SHARE = 0.001
"""Of a node's role, what an actor or worker asks for: a node that has 1 of it takes any number."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has."""

    cpus: float
    gpus: float
    roles: frozenset[str] = frozenset()
    """Those of `autoscaler.ROLES` that are resources of the node: what it is meant for."""


@dataclass(frozen=True)
class Machines:
    """What the cluster has or may grow to. `cuda`: torch sees CUDA where Ray gives a GPU."""

    nodes: tuple[Node, ...]
    cuda: bool
    borrowed: bool = False
    """Whether this Ray was there before the run in the same process, and outlives it."""

    def of(self, role: str) -> Machines:
        """Where a teacher or a student's worker may be: the nodes of that role, or where there are none, all."""
        return replace(self, nodes=tuple(node for node in self.nodes if role in node.roles) or self.nodes)

    def asked(self, role: str) -> dict[str, float]:
        """What it asks for besides cores and GPUs, so that it goes there."""
        return {role: ROLE_SHARE} if any(role in node.roles for node in self.nodes) else {}

    def left(self, placement: Placement) -> tuple[float, float]:
        """The cores and GPUs that teachers leave where students may be."""
        students = self.of("student")
        elsewhere = replace(self, nodes=tuple(n for n in self.of("teacher").nodes if n not in students.nodes))
        cpus = max(0.0, placement.actors * placement.num_cpus - elsewhere.cpus)
        gpus = max(0.0, placement.actors * placement.num_gpus - elsewhere.gpus)
        return students.cpus - cpus, students.gpus - gpus

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True)
class Placement:
    """How the ensemble is laid out: members, actors that host them, and what each actor and training task holds."""

    size: int
    actors: int
    num_cpus: float
    num_gpus: float
    roles: Mapping[str, float] = field(default_factory=dict)
    """What they ask for besides, so that they go to the nodes meant for them."""

    @property
    def held(self) -> dict[str, float]:
        """What each task holds, as Ray names it."""
        return {"CPU": self.num_cpus, **({"GPU": self.num_gpus} if self.num_gpus else {}), **self.roles}

    @property
    def options(self) -> dict[str, Any]:
        """The same as Ray's tasks are told it."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "resources": dict(self.roles)}

    @property
    def threads(self) -> int:
        """Threads an actor or task computes with: the same however many there are, since it can change a bit."""
        return max(1, int(self.num_cpus))

    def groups(self) -> list[range]:
        """The members that each actor hosts: contiguous, and as even as they can be."""
        edges = [round(actor * self.size / self.actors) for actor in range(self.actors + 1)]
        return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def place(ensemble: EnsembleSpec, machines: Machines) -> Placement:
    """How many members and actors the cluster takes.

    A GPU each where there are enough; else several members share an actor. Without GPUs no more actors than cores. An
    actor lies on one node, so what is left over on each node stays unused.

    Raises: `RequestError` where more is asked for than the cluster has.
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
    slots = sum(_slots(node, asked.num_cpus, num_gpus) for node in machines.nodes)
    size = _size(ensemble, max(slots, 1))
    if asked.num_gpus != "auto" and num_gpus * size > machines.gpus:
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
    return Placement(size, actors, asked.num_cpus, num_gpus, roles)


def place_student(machines: Machines) -> Placement:
    """Where a single process computes with a student."""
    cpus = min([1.0, *(node.cpus for node in machines.of("student").nodes if node.cpus)])
    return Placement(1, 1, cpus, float(machines.cuda), machines.asked("student"))


def check_student(student: StudentSpec, machines: Machines) -> None:
    """Raise `RequestError` where the student's workers would wait for GPUs that the cluster does not have."""
    least, _ = student.workers
    gpus = machines.of("student").gpus
    if machines.cuda and least > gpus:
        raise RequestError(
            f"student.num_workers: asked for {least}, a GPU each; the cluster has {gpus:g} for students. Ask for "
            "fewer, or add nodes."
        )


def _slots(node: Node, num_cpus: float, num_gpus: float) -> int:
    """How many actors fit on a node. A share of a GPU is of one GPU, whose rest may be too little for another."""
    by_cpu = int(node.cpus // num_cpus)
    if not num_gpus:
        return by_cpu
    return min(by_cpu, int(node.gpus) * int(1 / num_gpus) if num_gpus < 1 else int(node.gpus // num_gpus))


def _size(ensemble: EnsembleSpec, slots: int) -> int:
    return slots if ensemble.count is None else ensemble.count
