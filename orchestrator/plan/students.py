"""Where students and baselines compute: what each of their workers holds, and its threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.cluster import resources
from orchestrator.cluster.resources import Machines, Placement
from orchestrator.config.schema import StudentSpec

MIN_WORKER_CPUS = 0.0121
"""Cores that a worker holds beside teachers. Ray 2.60 divides sums of it by it and rounds down: of this it is right."""


@dataclass(frozen=True, kw_only=True)
class StudentPlacement:
    """How baseline and student are laid out.

    least, most: workers of Ray Train. held: what each holds, as Ray names it. threads: that each computes with. alone:
    where a single process computes with a student, such as one that fits an estimator or predicts.
    """

    least: int
    most: int
    held: Mapping[str, float]
    threads: int
    alone: Placement
    threads_alone: int

    @property
    def gpus(self) -> float:
        """Of all workers together, at the most."""
        return self.most * self.held.get("GPU", 0.0)

    @property
    def cores(self) -> float:
        """What all workers compute with, at the most."""
        return float(self.most * self.threads)


def place(student: StudentSpec, machines: Machines) -> StudentPlacement:
    """Raises: `RequestError` where the workers would wait for GPUs that the cluster does not have."""
    resources.check_student(student, machines)
    (least, most), there = student.workers, machines.of("student")
    return StudentPlacement(
        least=least,
        most=most,
        held=_held(most, there) | machines.asked("student"),
        threads=_threads(most, there),
        alone=resources.place_student(machines),
        threads_alone=_threads(1, there),
    )


def _threads(workers: int, machines: Machines) -> int:
    """A worker's share of the cores of its node."""
    per_node = math.ceil(workers / len(machines.nodes))
    return max(1, int(machines.cpus / len(machines.nodes) / per_node))


def _held(workers: int, machines: Machines) -> dict[str, float]:
    if machines.cuda:
        sixteenths = math.floor(16 * machines.cpus / (2 * workers))  # of which sums are exact
        return {"CPU": max(MIN_WORKER_CPUS, min(1.0, sixteenths / 16)), "GPU": 1.0}
    return {"CPU": MIN_WORKER_CPUS}  # of cores it takes what teachers leave, whatever those hold
