"""The trainings that a run tries before it starts: each member's, the student's and the baseline's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from orchestrator.config.initial import TEACHER_LAYERS, WORDS
from orchestrator.config.run_config import RunConfig
from orchestrator.stages import specialists
from workers.data.dataset import Dataset, Split
from workers.errors import RequestError
from workers.seeds import seed_of
from workers.specs.models import AnyModel, AnyNetwork, Network, OwnModel, SklearnModel
from workers.specs.objective import DistillationSpec
from workers.specs.training import AnyTraining, FitSpec
from workers.training import lessons, objective
from workers.training.loop import HARD_LABELS
from workers.trial.fitting import FitRole
from workers.trial.trial import Role


def roles(config: RunConfig, dataset: Dataset) -> list[Role | FitRole]:
    """The trainings to try, with the run's own settings: the first member of each group, student and baseline."""
    return [*_of_members(config, dataset), *_of_students(config, dataset)]


def needs_beside(config: RunConfig) -> bool:
    """Whether a term of some stage needs hidden states or attention of a member."""
    return any(objective.build(stage.loss).beside for stage in config.training_stages)


def feature_teacher(config: RunConfig, members: int | None = None) -> AnyNetwork | None:
    """The model of the member that terms or initial layers of the student are from; None where none are.

    members: their number; None: as configured, or enough where the cluster decides it. Raises: `RequestError` where
    `distillation.hidden.member` is none of them, or has no layers.
    """
    begins = (config.student.initial, *(stage.initial for stage in config.training_stages))
    if TEACHER_LAYERS not in begins and not needs_beside(config):
        return None
    key, number = "distillation.hidden.member", config.distillation.hidden.member
    size = members or config.ensemble.count or number + 1
    if number >= size:
        raise RequestError(
            f"{key}: {number}, and the members are numbered from 0 to {size - 1}. Expected the number of one of them."
        )
    model = config.ensemble.of_each(size)[number].model
    if not isinstance(model, Network):
        raise RequestError(
            f"{key}: {number}, and this member, of kind '{model.kind}', has no layers to look into. Expected the "
            "number of a member of kind python or transformers."
        )
    return model


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
            seed=seed_of(config.seed, "member", first),
            examples=dataset.train,
            initial=group.initial_file if before is None else given.get(before),
            begins_with=None if before is None else models[before],
        )


def _of_students(config: RunConfig, dataset: Dataset) -> Iterator[Role | FitRole]:
    """Each stage of the student, and the baseline."""
    student, stages = config.student, config.training_stages
    of_student = partial(
        _role,
        model=student.model,
        seed=seed_of(config.seed, "student"),
        workers=student.workers,
        beside=feature_teacher(config),
    )
    for number, stage in enumerate(stages):
        yield of_student(
            f"student (stage {stage.name})" if stage.name else "student",
            training=stage.training,
            examples=dataset.of_stage(stage.data),
            loss=stage.loss,
            initial=stage.initial,
            known=number > 0,
            key=stage.key,
        )
    recipe = student.baseline_recipe
    yield of_student(
        "baseline",
        training=recipe,
        examples=dataset.labelled(recipe.epochs if isinstance(student.model, Network) else dataset.views),
        initial=student.initial,
        known=True,
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
    beside: AnyNetwork | None = None,
    begins_with: AnyModel | None = None,
    key: str = objective.OBJECTIVE,
) -> Role | FitRole:
    """The trial role for a model, by its learner."""
    if isinstance(training, FitSpec):
        assert isinstance(model, SklearnModel | OwnModel)
        return FitRole(name, model, training, seed, examples, is_soft=lessons.weighed(loss).soft > 0, known=known)
    assert isinstance(model, Network)
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
        beside=beside,
        begins_with_layers=initial == TEACHER_LAYERS,
        begins_with=begins_with,
        key=key,
    )
