"""Derives the plan of a run from its configuration and facts. Pure: no Ray, no clock, no files.

The plan does not depend on artifacts of an earlier run; the stages resume from those.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cluster import resources
from orchestrator.cluster.resources import Machines, Placement
from orchestrator.config.run_config import RunConfig
from orchestrator.plan import hidden, sizes, students
from orchestrator.plan.facts import Facts
from orchestrator.plan.hidden import Where
from orchestrator.plan.sizes import Sizes
from orchestrator.plan.students import StudentPlacement
from workers.data.arrays import micro_batch
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import Numerics

REDUCED_ON_WORKERS = 4096
"""Threshold for the numbers that teachers send per example. From it on, workers reduce the outputs instead of the
driver. It is also the number of classes from which contributions have 64 bits if all classes are stored."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run.

    teachers: members, the actors that host them, and their resources. layout: parts of the store, and pieces. numerics:
    how teachers compute, unless existing parts were computed differently. streams: whether the student trains during
    the teachers' pass. hidden: where a member computes hidden states; None where no term needs any.
    """

    teachers: Placement
    student: StudentPlacement
    layout: PartLayout
    numerics: Numerics
    reduces_on_workers: bool
    streams: bool
    sizes: Sizes
    hidden: Where | None = None

    @property
    def device(self) -> str:
        """The teachers' device: `cpu` or `cuda`."""
        return self.numerics.device


def plan(config: RunConfig, facts: Facts) -> Plan:
    """Plan a run. Raises: `RequestError` where the configuration requires more resources than the cluster has."""
    data, machines = facts.data, facts.machines
    teachers = resources.place(config.ensemble, machines)
    needed = sizes.sizes(config, data, teachers.size)
    student = students.place(config.student, machines)
    where = hidden.place(config.distillation.hidden, facts.beside_bytes, student, teachers, machines)
    wide = data.classes >= REDUCED_ON_WORKERS and config.distillation.top_k is None
    return Plan(
        teachers=teachers,
        student=student,
        layout=sizes.layout(config, data),
        numerics=Numerics(
            device=teachers.device,
            precision=machines.settled(config.ensemble.precision, teachers.device),
            threads=teachers.threads,
            micro_batch=config.ensemble.micro_batch_size or micro_batch(data.values, data.embedded, teachers.device),
            bits=64 if wide else 32,
        ),
        reduces_on_workers=needed.answers >= 4 * REDUCED_ON_WORKERS,
        streams=where != "actor" and _streams(config, machines, teachers),  # which takes a teacher's place
        sizes=needed,
        hidden=where,
    )


def _streams(config: RunConfig, machines: Machines, teachers: Placement) -> bool:
    """Whether the student trains during the teachers' pass: on its own GPUs, or on a core that the teachers leave."""
    stream = config.distillation.stream
    if config.distillation.is_scheduled:  # it reads logits, and only soft targets are announced
        return False
    cpus, gpus = machines.left(teachers)
    if machines.cuda:
        return stream is not False and gpus >= config.student.workers[1]
    return stream is True or (stream == "auto" and cpus >= 1)
