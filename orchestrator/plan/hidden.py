"""Where a member computes hidden states for the student: in each worker of the student, or in an actor."""

from __future__ import annotations

from typing import Literal

from orchestrator.cluster.resources import Machines
from orchestrator.plan.students import StudentPlacement
from workers.specs import HiddenSpec

Where = Literal["worker", "actor"]
COPIES = 3
"""Memory of a member beside the student, in multiples of its weights: the weights, and what it computes of a batch."""
SHARE = 0.5
"""The share of a worker's memory that it may take."""


def place(spec: HiddenSpec, member_bytes: int, student: StudentPlacement, machines: Machines) -> Where | None:
    """The decision for a member of so many bytes; None where no term needs it (0 bytes).

    An actor sends each batch's states to the worker, so it is taken only for a member that does not fit. A memory that
    Ray does not know does not count as too small.
    """
    if not member_bytes:
        return None
    if spec.where != "auto":
        return spec.where
    has = machines.gpu_memory if student.held.get("GPU") else _memory(student, machines)
    return "worker" if not has or COPIES * member_bytes <= SHARE * has else "actor"


def _memory(student: StudentPlacement, machines: Machines) -> float:
    """The main memory of a worker's share of the smallest node; 0 where it is unknown."""
    nodes = machines.of("student").nodes
    per_node = -(-student.most // len(nodes))
    return min(node.memory for node in nodes) / per_node
