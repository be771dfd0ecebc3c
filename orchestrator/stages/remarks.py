"""Notes on a configuration that is valid, but probably not what its author intends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.config.initial import PREVIOUS
from orchestrator.config.run_config import RunConfig
from workers.data.dataset import Dataset
from workers.signals import BESIDE
from workers.specs.training import AnyTraining, TrainingSpec
from workers.training import objective

SHORT = 3
"""Ratio of the student's steps to the baseline's from which on they are hardly comparable."""


def on(config: RunConfig, dataset: Dataset) -> list[str]:
    """All notes on a configuration and its data."""
    return [
        *_large_batches(config, dataset),
        *_without_a_baseline_of_its_own(config, dataset),
        *_without_a_use(config),
        *_best_of_nothing(config),
        *unseen_versions(config),
        *known_to_finished_members(config.ensemble, dataset.held_out),
    ]


def known_to_finished_members(ensemble: EnsembleSpec, held_out: Sequence[str]) -> list[str]:
    """Notes on splits that are drawn from the training examples, from which finished members may have learned.

    held_out: these splits.
    """
    finished = len(ensemble.given())
    effects = {
        "validation": "what is chosen on it, such as the best member, may favour these",
        "test": "the accuracy of these, and of the ensemble, may be too high",
    }
    return [
        f"data.{split}: drawn from data.train, which {finished} finished "
        f"{'member' if finished == 1 else 'members'} may have learned from; {effects[split]}. Give `{split}`, a file "
        "of examples that no member learned from."
        for split in held_out
        if finished
    ]


def _without_a_use(config: RunConfig) -> list[str]:
    """Notes on stages of the student from whose weights nothing begins."""
    return [
        f"student.stages.{number}: '{before.name}' is trained, and the next stage begins from '{after.initial}' "
        "instead of its weights."
        for number, (before, after) in enumerate(pairwise(config.training_stages))
        if after.initial != PREVIOUS
    ]


def _best_of_nothing(config: RunConfig) -> list[str]:
    """Notes on stages that keep their best epoch, and do not train what this is measured by."""
    return [
        f"{stage.system}: `keep: best` takes the epoch of the best validation accuracy, and its terms compare hidden "
        "states alone, so that accuracy says little there."
        for stage in config.training_stages
        if isinstance(stage.training, TrainingSpec)
        and stage.training.keep == "best"
        and all(term.term.needs and term.term.needs <= BESIDE for term in objective.build(stage.loss).terms)
    ]


def unseen_versions(config: RunConfig) -> list[str]:
    """A note on versions of the examples that teachers label, and for which no student trains long enough."""
    views = 1 if config.data.augment is None else config.data.augment.views
    every = [config, *config.of_students().values()]
    stages = [stage.training for each in every for stage in each.training_stages if not stage.data]
    if not all(isinstance(training, TrainingSpec) for training in stages):  # an estimator learns from all versions
        return []
    epochs = max((training.epochs for training in stages), default=views)
    if views <= epochs:
        return []
    return [
        f"data.augment.views: the teachers label {views} versions of each example, and a student that trains for "
        f"{epochs} epochs learns from the first {epochs}. Give at most as many `views` as epochs."
    ]


def _large_batches(config: RunConfig, dataset: Dataset) -> list[str]:
    """Notes on batches that are larger than their data sets."""
    student, ensemble = config.student, config.ensemble
    recipes: dict[str, tuple[AnyTraining | None, int]] = {
        f"{key}.training": (group.training, len(dataset.train))
        for key, group in zip(ensemble.keys(), ensemble.groups, strict=True)
    }
    recipes["student.baseline_training"] = student.baseline_training, len(dataset.lessons)
    for number, stage in enumerate(config.training_stages):
        own = student.stages is not None and student.stages[number].training is not None
        key = f"student.stages.{number}.training" if own else "student.training"
        recipes.setdefault(key, (stage.training, len(dataset.of_stage(stage.data))))
    return [
        note
        for key, (recipe, examples) in recipes.items()
        if recipe is not None and recipe.batch_size is not None
        for note in large_batch(key, recipe.batch_size, examples)
    ]


def large_batch(key: str, batch_size: int, examples: int) -> list[str]:
    """A note where the batch size under `key` (such as `student.training`) exceeds the training set."""
    if batch_size <= examples:
        return []
    return [
        f"{key}.batch_size: {batch_size:,} is more than the {examples:,} examples, so an epoch is a single step; "
        f"{max(1, examples // 10):,} or fewer would make ten or more."
    ]


def _without_a_baseline_of_its_own(config: RunConfig, dataset: Dataset) -> list[str]:
    """A note where the baseline trains as the student does, on far fewer examples."""
    recipe = config.student.recipe
    if config.student.baseline_training is not None or not isinstance(recipe, TrainingSpec):
        return []
    of_student = [
        (stage.training, len(dataset.of_stage(stage.data)))
        for stage in config.training_stages
        if isinstance(stage.training, TrainingSpec)
    ]
    return short_baseline(recipe, len(dataset.lessons), of_student)


def short_baseline(recipe: TrainingSpec, labelled: int, student: Sequence[tuple[TrainingSpec, int]]) -> list[str]:
    """A note where the baseline, by `recipe`, takes far fewer steps than all stages of the student.

    labelled: examples of the baseline. student: the recipe of each stage, and its examples, unlabelled ones included.
    """
    of_baseline = recipe.epochs * math.ceil(labelled / recipe.batch_size)
    of_student = sum(stage.epochs * math.ceil(examples / stage.batch_size) for stage, examples in student)
    if of_student < SHORT * of_baseline:
        return []
    most = max(examples for _, examples in student)
    return [
        f"student.baseline_training: not given, so the baseline takes {of_baseline:,} steps on {labelled:,} labelled "
        f"examples, and the student {of_student:,} on {most:,}. Give the baseline about as many, by "
        f"`epochs: {round(recipe.epochs * of_student / of_baseline)}` there; else the gain over it is in part that of "
        "longer training."
    ]
