"""The trainings that a run tries before it starts: each member's, the student's and the baseline's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from orchestrator.config.ensemble import MemberGroup
from orchestrator.config.initial import TEACHER_LAYERS, WORDS
from orchestrator.config.run_config import RunConfig
from orchestrator.stages import specialists
from workers.data.dataset import Dataset, Split
from workers.models import torch_module
from workers.specs.models import AnyModel, NetworkModel, OwnModel, SklearnModel
from workers.specs.objective import DistillationSpec
from workers.specs.training import AnyTraining, FitSpec
from workers.training import lessons
from workers.training.loop import HARD_LABELS
from workers.trial.fitting import FitRole
from workers.trial.trial import Role


def roles(config: RunConfig, dataset: Dataset) -> list[Role | FitRole]:
    """The trainings to try, with the run's own settings: the first member of each group, student and baseline."""
    return [*_of_members(config, dataset), *_of_students(config, dataset)]


def _of_members(config: RunConfig, dataset: Dataset) -> Iterator[Role | FitRole]:
    ensemble = config.ensemble
    given, models = ensemble.given(), [group.model for group in ensemble.of_each(ensemble.count or 1)]
    for key, group, first in zip(ensemble.keys(), ensemble.groups, ensemble.firsts(), strict=True):
        if group.training is None:
            continue
        before = group.initial if isinstance(group.initial, int) else None
        yield _role(
            key.removeprefix("ensemble.") if len(ensemble.groups) > 1 else "ensemble",
            specialists.tried(group, dataset),
            group.training,
            seed=torch_module.seed_of(config.seed, "member", first),
            examples=dataset.train,
            initial=group.initial_file if before is None else given.get(before),
            begins_with=None if before is None else models[before],
        )


def _of_students(config: RunConfig, dataset: Dataset) -> Iterator[Role | FitRole]:
    """Each stage of the student, and the baseline."""
    ensemble, student, stages = config.ensemble, config.student, config.training_stages
    least = 1 + max(each.loss.hidden.member for each in stages)
    hidden = dict(enumerate(ensemble.of_each(ensemble.count or least)))
    of_student = partial(
        _role, model=student.model, seed=torch_module.seed_of(config.seed, "student"), workers=student.workers
    )
    for number, stage in enumerate(stages):
        yield of_student(
            "student" if number == 0 else f"student (stage {stage.name})",
            training=stage.training,
            examples=dataset.of_stage(stage.data),
            loss=stage.loss,
            initial=stage.initial,
            known=number > 0,
            beside=hidden.get(stage.loss.hidden.member),
        )
    recipe = student.baseline_training or student.training
    yield of_student(
        "baseline",
        training=recipe,
        examples=dataset.labelled(recipe.epochs if student.model.learner == "network" else dataset.views),
        initial=student.initial,
        known=True,
        beside=hidden.get(config.distillation.hidden.member),
    )


def _role(
    name: str,
    model: AnyModel,
    training: AnyTraining,
    *,
    seed: int,
    examples: Split,
    loss: DistillationSpec = HARD_LABELS,
    workers: tuple[int, int] = (1, 1),
    initial: str | None = None,
    known: bool = False,
    beside: MemberGroup | None = None,
    begins_with: AnyModel | None = None,
) -> Role | FitRole:
    """The trial role for a model, by its learner."""
    if isinstance(training, FitSpec):
        assert isinstance(model, SklearnModel | OwnModel)
        return FitRole(name, model, training, seed, examples, is_soft=lessons.weighed(loss).soft > 0, known=known)
    assert isinstance(model, NetworkModel)
    return Role(
        name=name,
        model=model,
        training=training,
        seed=seed,
        examples=examples,
        loss=loss,
        workers=workers,
        initial=None if initial in WORDS else initial,
        known=known,
        beside=None if beside is None else beside.model,
        begins_with_layers=initial == TEACHER_LAYERS,
        begins_with=begins_with,
    )
