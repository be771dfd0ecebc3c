"""The schema of the student: its model, its training, and the stages of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from orchestrator.config.initial import PREVIOUS
from workers.specs.base import Count, Spec, Whole
from workers.specs.models import AnyModel
from workers.specs.objective import TermSpec, Weight
from workers.specs.training import AnyTraining, check_recipe

STAGE = r"^[a-z0-9][a-z0-9_-]*$"


class StageData(Spec):
    """Data of a stage of the student, in the format of `data`."""

    unlabeled: str
    """A file of examples without labels: a path or an fsspec URI, as in `data`."""


class StudentStage(Spec):
    """A stage of the student's training, with its own objective. By default it starts from the previous stage's
    weights."""

    name: Annotated[str, Field(pattern=STAGE, max_length=40)]
    """Name of the stage: lower-case letters, digits, `_` and `-`. Its weights are in `stages/<name>`, its nested run
    in MLflow is `stage-<name>`. The last stage is the student itself."""
    objective: tuple[TermSpec, ...] | None = None
    """The terms of its objective. Left out, with the two weights below: those of `distillation`."""
    soft_weight: Weight | None = None
    """Weight of the soft targets in the short form of `objective`, as in `distillation`."""
    hard_weight: Weight | None = None
    """Weight of the labels in the short form."""
    training: AnyTraining | None = None
    """How it is trained. Left out: as `student.training`."""
    data: StageData | None = None
    """What it learns on instead of the transfer set, such as general texts. Its terms need neither soft targets nor
    labels."""
    initial: str = PREVIOUS
    """`previous`: the weights of the stage before, of the first stage those of `student.initial`. Or `teacher_layers`,
    or a file of weights, as of `student.initial`."""


class StudentSpec(Spec):
    """The student, a single model that learns from the ensemble, and its hard-label baseline."""

    model: AnyModel
    """The architecture of student and baseline."""
    training: AnyTraining | None = None
    """How the student is trained. Left out, where each of `stages` has a `training`: as the last of these."""
    baseline_training: AnyTraining | None = None
    """How the hard-label baseline of the same architecture is trained. Left out: as the student."""
    initial: str | None = None
    """A file of initial weights for student and baseline, in a format of `ensemble.checkpoints`. `teacher_layers`:
    embeddings of the member `distillation.hidden.member`, and its layers at even distances. Left out: random weights.
    Both begin with the same."""
    seed: Whole = 0
    """Another number gives student and baseline other random weights and another order of examples, with the run's
    `seed` as it is."""
    stages: tuple[StudentStage, ...] | None = None
    """The student's training in several stages, one after another. Left out: one, by `training` and `distillation`."""
    num_workers: Count | tuple[Count, Count] = 1
    """Ray Train workers, each taking its cut of every batch; `[min, max]`: elastic."""

    @model_validator(mode="after")
    def _ordered(self) -> StudentSpec:
        if self.training is None and (not self.stages or any(stage.training is None for stage in self.stages)):
            raise ValueError("`training` is missing; expected it, or a `training` in each of `stages`")
        least, most = self.workers
        if least > most:
            raise ValueError(f"`num_workers` is {[least, most]}; expected [min, max] with min <= max")
        for key, training in self.recipes.items():
            check_recipe(self.model, training, key)
        if self.model.learner == "estimator" and most > 1:
            raise ValueError(f"`num_workers` is {most}, and an estimator is fitted by one process; leave it out")
        if self.model.learner == "estimator" and (self.initial is not None or self.stages is not None):
            raise ValueError("an estimator is fitted once, from nothing; leave `initial` and `stages` out")
        if self.initial == PREVIOUS:
            raise ValueError(f"`initial` is {PREVIOUS}, and nothing is before it; expected a file of weights")
        names = [stage.name for stage in self.stages or ()]
        if self.stages == () or len(set(names)) < len(names):
            raise ValueError(f"`stages` has {names}; expected at least one, each under a name of its own")
        for training in self.recipes.values():
            if training.batch_size is not None and training.batch_size < most:
                raise ValueError(
                    f"`num_workers` is {most} and a batch has {training.batch_size} examples; expected at least one "
                    "for each worker"
                )
        return self

    @property
    def recipes(self) -> dict[str, AnyTraining]:
        """The training settings of networks of this model, by their keys."""
        found = {f"stages.{number}.training": stage.training for number, stage in enumerate(self.stages or ())}
        found |= {"training": self.training, "baseline_training": self.baseline_training}
        return {key: training for key, training in found.items() if training is not None}

    @property
    def recipe(self) -> AnyTraining:
        """How the student is trained where a stage has no `training`: by its own, or else as its last stage."""
        found = self.training or (self.stages[-1].training if self.stages else None)
        assert found is not None, "checked above"
        return found

    @property
    def baseline_recipe(self) -> AnyTraining:
        """How the baseline is trained."""
        return self.baseline_training or self.recipe

    @property
    def workers(self) -> tuple[int, int]:
        """The smallest and the largest number of workers."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)
