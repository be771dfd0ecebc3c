"""What is trained on the transfer set: the student on soft targets, its baseline on labels."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.observers.events import SystemAdded
from orchestrator.reporting.report import Role
from orchestrator.stages import training
from orchestrator.stages.context import Context
from orchestrator.stages.fitters import StudentJob
from orchestrator.stages.soft_targets import SoftTargetPass
from orchestrator.stages.trained import Trained
from workers.models.torch_module import seed_of


def student(run: Context, role: Role, made: SoftTargetPass | None = None) -> Trained:
    """The student on the soft targets `made`; without them, the hard-label baseline of its architecture."""
    spec, events = run.config.student, run.events
    recipe = spec.training if made is not None else spec.baseline_training or spec.training
    job = StudentJob(role, spec.model, recipe, seed_of(run.config.seed, "student"))
    if made is not None:
        job = replace(
            job,
            loss=run.config.distillation,
            store=made.store(),
            store_key=made.resume_key(),
            store_content=made.content,
        )
    events.emit(SystemAdded(role, role))
    with events.stage(role, [role], recipe.epochs) as stage:
        trained = training.train_student(run, job)
        stage.reused = trained.reused
    events.trained(role, trained.history, trained.reused)
    return trained
