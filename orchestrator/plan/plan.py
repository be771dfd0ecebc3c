"""Configuration and facts -> everything that a run decides before it starts. Pure: no Ray, no clock, no file.

What an earlier run has left in the folder is no part of it: a stage resumes from that.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cluster import resources
from orchestrator.cluster.resources import Machines, Placement
from orchestrator.config.run_config import RunConfig
from orchestrator.plan import sizes, students
from orchestrator.plan.facts import Facts
from orchestrator.plan.sizes import Sizes
from orchestrator.plan.students import StudentPlacement
from workers.data.arrays import micro_batch
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import Numerics

REDUCED_ON_WORKERS = 4096
"""Numbers that teachers send for an example, from which on answers are reduced beside them and never come to the
driver."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do.

    teachers: members, the actors that host them, and what each holds. layout: parts of the store, and pieces. numerics:
    how teachers compute where no part that is there says otherwise. streams: whether the student trains during the
    teachers' pass.
    """

    teachers: Placement
    student: StudentPlacement
    layout: PartLayout
    numerics: Numerics
    reduces_on_workers: bool
    streams: bool
    sizes: Sizes

    @property
    def device(self) -> str:
        """Of the teachers: `cpu` or `cuda`."""
        return self.numerics.device


def plan(config: RunConfig, facts: Facts) -> Plan:
    """Raises: `RequestError` where the configuration asks for more than the cluster has."""
    data, machines = facts.data, facts.machines
    teachers = resources.place(config.ensemble, machines)
    needed = sizes.sizes(config, data, teachers.size)
    wide = data.classes >= REDUCED_ON_WORKERS and config.distillation.top_k is None
    return Plan(
        teachers=teachers,
        student=students.place(config.student, machines),
        layout=sizes.layout(config, data),
        numerics=Numerics(
            device="cuda" if machines.cuda and teachers.num_gpus else "cpu",
            precision=config.ensemble.precision,
            threads=teachers.threads,
            micro_batch=config.ensemble.micro_batch_size or micro_batch(data.values),
            bits=64 if wide else 32,
        ),
        reduces_on_workers=needed.answers >= 4 * REDUCED_ON_WORKERS,
        streams=_streams(config, machines, teachers),
        sizes=needed,
    )


def _streams(config: RunConfig, machines: Machines, teachers: Placement) -> bool:
    """Whether the student trains while the teachers are up: on GPUs of its own, or on a core that they leave."""
    stream = config.distillation.stream
    if config.distillation.is_scheduled:  # the student reads logits, which the folder of soft targets does not announce
        return False
    cpus, gpus = machines.left(teachers)
    if machines.cuda:
        return stream is not False and gpus >= config.student.workers[1]
    return stream is True or (stream == "auto" and cpus >= 1)
