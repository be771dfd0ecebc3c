"""The cost of a run: core hours and GPU hours of each stage, and their price."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cluster.resources import Placement
from orchestrator.plan.plan import Plan
from orchestrator.reporting.report import Bound, Spent
from orchestrator.stages.soft_target_pass import SoftTargetPass
from orchestrator.stages.trained import Trained


def spent(
    plan: Plan, members: Sequence[Trained], baseline: Trained, student: Trained, made: SoftTargetPass
) -> dict[str, Spent]:
    """The cost of each stage that leads to the student, and of its baseline."""
    teachers, workers = plan.teachers, plan.student

    def of(seconds: float, cores: float, gpus: float) -> Spent:
        return Spent(core_hours=seconds * cores / 3600, gpu_hours=seconds * gpus / 3600)

    def trained(systems: Sequence[Trained]) -> float:
        return sum(epoch.seconds for system in systems for epoch in system.history)

    return {
        "members": of(trained(members), teachers.num_cpus, teachers.num_gpus),
        "soft targets": of(
            made.complete().seconds, teachers.actors * teachers.num_cpus, teachers.actors * teachers.num_gpus
        ),
        "baseline": of(trained([baseline]), workers.cores, workers.gpus),
        "student": of(trained(student.stages), workers.cores, workers.gpus),
    }


def of_member(member: Trained, held: Placement) -> dict[str, float]:
    """The core hours and GPU hours of a member's training; empty for a loaded one."""
    if not member.history:
        return {}
    hours = sum(epoch.seconds for epoch in member.history) / 3600
    return {"core_hours": hours * held.num_cpus, "gpu_hours": hours * held.num_gpus}


def bound_by(student: Trained, made: SoftTargetPass) -> Bound:
    """The bottleneck between teachers and student."""
    trained_s = sum(epoch.seconds - epoch.waited_s for stage in student.stages for epoch in stage.history)
    return "student" if trained_s > made.complete().seconds else made.bound_by
