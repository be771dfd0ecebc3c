"""Placement of student and baseline: the resources and threads of each of their workers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.cluster.resources import Machines, Placement
from orchestrator.config.student import StudentSpec
from workers.errors import RequestError

MIN_WORKER_CPUS = 0.0121
"""Cores that a worker reserves beside teachers. Ray 2.60 divides sums of it by it and rounds down; for this value the
result is exact."""


@dataclass(frozen=True, kw_only=True)
class StudentPlacement:
    """The placement of baseline and student.

    least, most: number of workers in Ray Train. held: resources of each, by Ray's names. threads: number per worker.
    alone: placement of a single process that computes with a student, to fit an estimator or to predict.
    """

    least: int
    most: int
    held: Mapping[str, float]
    threads: int
    alone: Placement
    threads_alone: int

    @property
    def gpus(self) -> float:
        """Maximal number of GPUs of all workers together."""
        return self.most * self.held.get("GPU", 0.0)

    @property
    def cores(self) -> float:
        """Maximal number of cores that all workers use together."""
        return float(self.most * self.threads)


def place(student: StudentSpec, machines: Machines) -> StudentPlacement:
    """Place the workers. Raises: `RequestError` where they would wait for GPUs that the cluster does not have."""
    check(student, machines)
    (least, most), there = student.workers, machines.of("student")
    return StudentPlacement(
        least=least,
        most=most,
        held=_held(most, there) | machines.asked("student"),
        threads=_threads(most, there),
        alone=_alone(machines),
        threads_alone=_threads(1, there),
    )


def check(student: StudentSpec, machines: Machines) -> None:
    """Raise `RequestError` where the student's workers need more GPUs than the cluster has."""
    least, _ = student.workers
    gpus = machines.of("student").gpus
    if machines.cuda and least > gpus:
        raise RequestError(
            f"student.num_workers: asked for {least}, a GPU each; the cluster has {gpus:g} for students. Ask for "
            "fewer, or add nodes."
        )


def _alone(machines: Machines) -> Placement:
    """The placement of a single process that computes with a student."""
    cpus = min([1.0, *(node.cpus for node in machines.of("student").nodes if node.cpus)])
    return Placement(1, 1, cpus, float(machines.cuda), machines.asked("student"), "cuda" if machines.cuda else "cpu")


def _threads(workers: int, machines: Machines) -> int:
    """A worker's share of the cores of its node."""
    per_node = math.ceil(workers / len(machines.nodes))
    return max(1, int(machines.cpus / len(machines.nodes) / per_node))


def _held(workers: int, machines: Machines) -> dict[str, float]:
    if machines.cuda:
        sixteenths = math.floor(16 * machines.cpus / (2 * workers))  # whose sums are exact in floating point
        return {"CPU": max(MIN_WORKER_CPUS, min(1.0, sixteenths / 16)), "GPU": 1.0}
    return {"CPU": MIN_WORKER_CPUS}  # it runs on the cores that teachers leave idle
