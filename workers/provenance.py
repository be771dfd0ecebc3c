"""What a model follows from besides its weights: the inputs that decide whether earlier results are reused."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from workers import factories
from workers.specs import ModelSpec


def versions() -> dict[str, str]:
    """Versions that may move the last bits of a trained network, recorded beside its weights."""
    return {name: version(name) for name in ("torch", "numpy")}


def of_model(model: ModelSpec) -> dict[str, Any]:
    """The inputs of `model` by name, as plain JSON values: its specification, and the code of its factory.

    Two models with equal values compute the same function from the same weights. Raises: `RequestError` where the
    factory is missing.
    """
    return {
        "model": model.model_dump(mode="json", exclude={"folder"}),
        "code": factories.digest(model.factory, model.folder),
    }
