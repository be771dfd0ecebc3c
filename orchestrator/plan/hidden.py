"""Where a member computes hidden states for the student: in each worker of the student, or in an actor."""

from __future__ import annotations

from typing import Literal

from orchestrator.cluster.resources import Machines, Placement
from orchestrator.plan.students import StudentPlacement
from workers.errors import RequestError
from workers.specs.objective import HiddenSpec

Where = Literal["worker", "actor"]
COPIES = 3
"""Memory of a member beside the student, in multiples of its weights: the weights, and what it computes of a batch."""
SHARE = 0.5
"""The share of a worker's memory that it may take."""


def place(
    spec: HiddenSpec, member_bytes: int, student: StudentPlacement, teachers: Placement, machines: Machines
) -> Where | None:
    """The decision for a member of so many bytes; None where no term needs it (0 bytes).

    An actor sends each batch's states to the worker, so it is taken only for a member that does not fit, where the
    cluster has resources for it beside the student. A memory that Ray does not know does not count as too small.

    Raises: `RequestError` where an actor is asked for, and the cluster lacks resources for it.
    """
    if not member_bytes:
        return None
    has_room = _has_room(student, teachers, machines)
    if spec.where == "actor" and not has_room:
        raise RequestError(
            f"distillation.hidden.where: actor, which takes {teachers.num_cpus:g} CPU and {teachers.num_gpus:g} GPU "
            f"beside the student's {student.most} workers; the cluster has {machines.cpus:g} CPU and {machines.gpus:g} "
            "GPU. Set it to `worker`, or add a node."
        )
    if spec.where != "auto":
        return spec.where
    has = machines.gpu_memory if student.held.get("GPU") else _memory(student, machines)
    fits = not has or COPIES * member_bytes <= SHARE * has
    return "worker" if fits or not has_room else "actor"


def _has_room(student: StudentPlacement, teachers: Placement, machines: Machines) -> bool:
    """Whether the cluster has the resources of a teacher's actor besides those of all workers."""
    cpus = machines.cpus - student.most * student.held.get("CPU", 0.0)
    return cpus >= teachers.num_cpus and machines.gpus - student.gpus >= teachers.num_gpus


def _memory(student: StudentPlacement, machines: Machines) -> float:
    """The main memory of a worker's share of the smallest node; 0 where it is unknown."""
    there = machines.of("student")
    return there.least_memory / -(-student.most // len(there.nodes))
