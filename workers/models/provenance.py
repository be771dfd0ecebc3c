"""What a model follows from: its specification, the user's code and files that build it, and what is built."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from workers.models import predictor
from workers.seeds import seeded
from workers.specs import AnyModel, FactorySpec
from workers.user_code import factories
from workers.user_code.provenance import SEED, examined


def of_model(model: AnyModel) -> dict[str, Any]:
    """The inputs of `model` by name, as plain JSON values: with equal ones the same weights are the same function.

    model: its specification. code: of each file that its factory reaches, a digest of what is reached in it. files:
    digests of the files that building it reads, and of `depends_on`. environment: digests of the values of variables
    that reached code names. packages: versions of distributions that the code imports, except for Stillhouse's own
    dependencies. built: classes, shapes and types, plain attributes and initial weights of the module from a fixed
    seed, as far as two builds agree.

    Raises: `RequestError` where the factory is missing or raises, or a file of `depends_on` is missing.
    """
    if not isinstance(model, FactorySpec):  # a file, and no code
        return {"model": model.model_dump(mode="json", exclude={"path"})}
    return examined(model, partial(_made, model)).inputs


def files_of(model: AnyModel) -> dict[Path, bytes]:
    """The files beside the configuration that `model` is built from: code, what it reads, and `depends_on`, whole.

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
    """The user's other files that `model` is built from: those that a copy of its folder leaves behind.

    Caches, in folders that are hidden, are left out: what filled them fills them elsewhere too.
    """
    if not isinstance(model, FactorySpec):
        return []
    found = examined(model, partial(_made, model)).paths.values()
    outside = {path for path in found if factories.within(path, model.folder) is None}
    return sorted(path for path in outside if not any(part.startswith(".") for part in path.parts))


def _made(model: AnyModel) -> Any:
    """What the code of a model makes of it, from a fixed seed."""
    with seeded(SEED):
        return predictor.kind_of(model).made(model)
