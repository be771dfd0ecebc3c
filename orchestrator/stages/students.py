"""Trains the student on soft targets, in one stage or several, and its baseline on labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.config.initial import PREVIOUS, TEACHER_LAYERS
from orchestrator.config.run_config import STUDENT
from orchestrator.observers.events import SystemAdded
from orchestrator.run_folder import owned
from orchestrator.stages import beside, training
from orchestrator.stages.context import Context
from orchestrator.stages.fitters import StudentJob
from orchestrator.stages.soft_target_pass import SoftTargetPass
from orchestrator.stages.trained import Trained
from workers.inference.teacher import Member
from workers.seeds import seed_of
from workers.specs.objective import DistillationSpec

BASELINE, STAGE = "baseline", "stage"


def baseline(run: Context, members: Sequence[Member]) -> Trained:
    """Train a network with the student's architecture and initial weights on hard labels."""
    spec = run.config.student
    recipe = spec.baseline_recipe
    begun = _begun(run, spec.initial, run.config.distillation, members)
    job = StudentJob(BASELINE, spec.model, recipe, _seed(run), **begun)
    return _train(run, job, BASELINE)


def student(run: Context, made: SoftTargetPass, members: Sequence[Member]) -> Trained:
    """Train the student on the soft targets `made`, stage by stage; the last stage's weights are the student.

    members: the teachers, one of which may be beside the student.
    """
    spec, stages = run.config.student, run.config.training_stages
    done: list[Trained] = []
    for each in stages:
        initial = done[-1].member.weights if done and each.initial == PREVIOUS else each.initial
        job = StudentJob(
            each.system,
            spec.model,
            each.training,
            _seed(run, each.name) if done else _seed(run),
            loss=each.loss,
            **({"split": each.data} if each.data else _soft_targets(made)),
            **_begun(run, initial, each.loss, members),
            beside=beside.asked_of(run, each.loss, members),
        )
        done.append(_train(run, job, STUDENT if each.system == STUDENT else STAGE))
    owned.remove_shown(run.config.folder, "stage", [each.name for each in stages[:-1]])
    return replace(done[-1], before=tuple(done[:-1]))


def _seed(run: Context, *stage: str) -> int:
    """The seed of a training: the same for the baseline and the student's first stage."""
    own = run.config.student.seed
    return seed_of(run.config.seed, STUDENT, *([own] if own else []), *stage)


def _soft_targets(made: SoftTargetPass) -> dict[str, Any]:
    """The soft targets that a job learns from."""
    return {
        "store": made.store(),
        "store_key": made.in_use(),
        "store_content": made.content,
        "store_fewer": made.fewer(),
    }


def _begun(run: Context, initial: str | None, loss: DistillationSpec, members: Sequence[Member]) -> dict[str, Any]:
    """Where the initial weights of a job come from."""
    return {"layers_of": members[loss.hidden.member]} if initial == TEACHER_LAYERS else {"initial": initial}


def _train(run: Context, job: StudentJob, role: str) -> Trained:
    """Train a job as a stage of the run, and a system of the tracker."""
    events = run.events
    events.emit(SystemAdded(job.role, role))
    with events.stage(job.role, [job.role], job.training.epochs) as stage:
        trained = training.train_student(run, job)
        stage.reused = trained.reused
    events.trained(job.role, trained.history, trained.reused)
    return trained
