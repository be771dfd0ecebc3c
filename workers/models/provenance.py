"""Provenance of a model and of its training: specifications, the user's code and files, and the built object."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from workers.data import tokens as tokens_
from workers.models import checkpoints, predictor
from workers.seeds import seeded
from workers.specs.base import FactorySpec
from workers.specs.models import AnyModel
from workers.specs.training import AnyTraining, TrainingSpec
from workers.user_code import factories
from workers.user_code.provenance import SEED, examined


def of_model(model: AnyModel) -> dict[str, Any]:
    """The inputs of `model` by name, as plain JSON values. Models with equal inputs and weights are the same function.

    model: its specification. code: for each file that its factory reaches, a digest of the reachable code. files:
    digests of the files that the build reads, and of `depends_on`. environment: digests of the environment variables
    that the reachable code names. packages: versions of distributions that the code imports, except for Stillhouse's
    own dependencies. built: classes, shapes and types, plain attributes and initial weights of the module from a fixed
    seed, as far as two builds agree. tokenizer, checkpoint: digests of the tokenizer, and of the folder that training
    begins from.

    Raises: `RequestError` where the factory is missing or raises, or a file of `depends_on` is missing.
    """
    tokens = {} if model.tokenizer is None else {"tokenizer": tokens_.digest(model.tokenizer)}
    begins = {} if model.begins_from is None else {"checkpoint": checkpoints.sha256(model.begins_from)}
    if not isinstance(model, FactorySpec):  # without code
        return {"model": model.determining(), **begins, **tokens}
    return {**examined(model, partial(_made, model)).inputs, **tokens}


def of_training(model: AnyModel, training: AnyTraining) -> dict[str, Any]:
    """The settings that determine how `model` is trained, as plain JSON values.

    Where code of the user fits the model or schedules the learning rate, its code, files, environment and packages are
    among them, as in `of_model`. Raises: `RequestError` where the code is missing.
    """
    settings = training.determining(model)
    if isinstance(training, TrainingSpec):
        if ":" not in training.schedule:
            return settings
        own = FactorySpec(factory=training.schedule, **training.model_dump(include={"kwargs", "folder", "depends_on"}))
        return {**settings, **examined(own, partial(factories.call, own.factory, own.kwargs, own.folder)).inputs}
    if not (isinstance(model, FactorySpec) and ":" in training.fit):
        return settings
    own = FactorySpec(factory=training.fit, folder=model.folder, depends_on=model.depends_on)
    loaded = partial(factories.load, own.factory, own.folder)  # files that its calls read are the model's
    return {**settings, **examined(own, loaded).inputs}


def files_of(model: AnyModel) -> dict[Path, bytes]:
    """The files beside the configuration that build `model`, in full: its code, the files it reads, and `depends_on`.

    The paths are below `model.folder`; a copy of them in another folder builds the same model.
    """
    if not isinstance(model, FactorySpec):
        return {}
    found = factories.files(model.factory, model.folder)
    for path in examined(model, partial(_made, model)).paths.values():
        place = factories.within(path, model.folder)
        if place is not None:
            found.setdefault(Path(model.folder, place), path.read_bytes())
    return found


def files_outside(model: AnyModel) -> list[Path]:
    """The user's files outside the model's folder that build `model`, which a copy of the folder would lack.

    Caches in hidden folders are excluded, since another machine can fill them too.
    """
    if not isinstance(model, FactorySpec):
        return []
    found = examined(model, partial(_made, model)).paths.values()
    outside = {path for path in found if factories.within(path, model.folder) is None}
    return sorted(path for path in outside if not any(part.startswith(".") for part in path.parts))


def _made(model: AnyModel) -> Any:
    """The object that the model's code builds from a fixed seed."""
    with seeded(SEED):
        return predictor.kind_of(model).made(model)
