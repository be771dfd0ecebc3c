"""How fast a run's parts are: measured by a rehearsal, or estimated from shapes. Pure.

Estimates count a network's floating-point operations and divide by the speed of the device, so they are rough: small
networks reach a fraction of it. A rehearsal measures the same rates by the run's own stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.config.run_config import RunConfig, TrainingStage
from orchestrator.plan.plan import Plan
from workers.models.profile import Profile
from workers.specs.training import AnyTraining
from workers.training import objective

BACKWARD = 3.0
"""Cost of a training step in forward passes: one forward, and a backward pass of twice that."""
CPU_FLOPS = 2.0e10
"""Assumed operations per second of one core, as small networks reach them in float32."""
GPU_FLOPS = 4.0e13
"""Assumed operations per second of a GPU, unless the user gives another number."""
STEP_S = 1.0e-3
"""Assumed time of a step besides its operations."""
UNCOUNTED_S = 1.0e-3
"""Assumed time per example of a model whose operations cannot be counted."""
TASK_S, WORKERS_S, ACTORS_S, LATENCY_S = 6.0, 10.0, 8.0, 15.0
"""Assumed start of a task, of Ray Train's workers and of the teachers' actors, and time of the latency measurements."""


@dataclass(frozen=True, kw_only=True)
class TrainingRate:
    """start_s: before the first epoch and after the last. example_s: of a training example. between_s: after an epoch,
    for its checkpoint."""

    start_s: float
    example_s: float
    between_s: float = 0.0

    def epoch_s(self, examples: int, validation: int) -> float:
        """Seconds of an epoch, its validation included."""
        return (examples + validation / BACKWARD) * self.example_s + self.between_s

    def seconds(self, epochs: int, examples: int, validation: int) -> float:
        """Seconds of a whole training."""
        return self.start_s + epochs * self.epoch_s(examples, validation)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates of a run.

    tokens_s: of the tokenizer, per example or masked text. members: of each group; None where its members are loaded.
    predictions_s: of the stage besides its examples. forward_s: of one member and example in the pass. student: of each
    stage, with all workers. student_units: cores, or GPUs, of all workers together to which the student's rates apply.
    """

    tokens_s: float = 0.0
    members: tuple[TrainingRate | None, ...]
    predictions_s: float
    pass_start_s: float
    forward_s: float
    baseline: TrainingRate
    student: tuple[TrainingRate, ...]
    student_units: float
    evaluation_s: float


def units(plan: Plan) -> float:
    """The GPUs, or else the cores, of all of the student's workers together."""
    return plan.student.gpus or plan.student.cores


def of_shapes(
    config: RunConfig, plan: Plan, profiles: Mapping[str, Profile | None], gpu_flops: float = GPU_FLOPS
) -> Rates:
    """Rates from the operations of each network.

    profiles: by the model's key in the configuration. gpu_flops: operations per second of one GPU.
    """
    teachers, ensemble = plan.teachers, config.ensemble
    teacher_flops = gpu_flops * min(1.0, teachers.num_gpus) if plan.device == "cuda" else CPU_FLOPS * teachers.threads
    student_flops = gpu_flops * plan.student.gpus or CPU_FLOPS * plan.student.cores

    def forward(key: str, flops: float) -> float:
        found = profiles[f"{key}.model"]
        return UNCOUNTED_S if found is None else found.forward_flops / flops

    def trained(key: str, training: AnyTraining, flops: float, start_s: float) -> TrainingRate:
        step = STEP_S / training.batch_size if training.batch_size else 0.0
        return TrainingRate(start_s=start_s, example_s=BACKWARD * forward(key, flops) + step)

    def beside(stage: TrainingStage, alone: TrainingRate) -> TrainingRate:
        """The rate with a member that computes hidden states of each batch, where a term needs them."""
        if not objective.build(stage.loss).beside:
            return alone
        number = stage.loss.hidden.member
        key = next(key for key, first in reversed([*zip(keys, ensemble.firsts(), strict=True)]) if first <= number)
        return replace(alone, example_s=alone.example_s + forward(key, student_flops))

    keys = ensemble.keys()
    of_each = [forward(key, teacher_flops) for key, group in zip(keys, ensemble.groups, strict=True)
               for _ in range(group.count)]  # fmt: skip
    of_student = [
        beside(each, trained("student", each.training, student_flops, WORKERS_S)) for each in config.training_stages
    ]
    baseline = config.student.baseline_recipe
    return Rates(
        members=tuple(
            None if group.training is None else trained(key, group.training, teacher_flops, TASK_S)
            for key, group in zip(keys, ensemble.groups, strict=True)
        ),
        predictions_s=TASK_S,
        pass_start_s=ACTORS_S,
        forward_s=sum(of_each) / len(of_each),
        baseline=trained("student", baseline, student_flops, WORKERS_S),
        student=tuple(of_student),
        student_units=units(plan),
        evaluation_s=LATENCY_S,
    )
