"""Python that loads a trained student without Stillhouse: what a run prints at its end, for a person to copy."""

from __future__ import annotations

import keyword
import os
from pathlib import Path
from typing import Any

from orchestrator.cli import job_folder
from orchestrator.cluster import environment
from orchestrator.stages.preflight import COPIES
from workers import storage
from workers.specs import AnyModel, ModelSpec, SklearnModel


def load(model: AnyModel, weights: str) -> str:
    """Lines of Python after which `student` is the trained model, by packages that its kind needs anyway.

    weights: URI of its file. Empty for a kind of the user's own.
    """
    if isinstance(model, ModelSpec):
        return load_in_torch(model, weights)
    return load_in_skops(weights) if isinstance(model, SklearnModel) else ""


def load_in_skops(weights: str) -> str:
    """Lines of Python after which `student` is the fitted estimator; types that skops does not know are looked at."""
    opened = f"open({storage.filesystem(weights)[1]!r}, 'rb')"
    opened = opened if storage.is_local(weights) else f"fsspec.open({weights!r}).open()"
    return "\n".join(
        [
            f"import {'' if storage.is_local(weights) else 'fsspec, '}skops.io; data = {opened}.read()",
            "types = skops.io.get_untrusted_types(data=data); print(types)",
            "student = skops.io.loads(data, trusted=types)",
        ]
    )


def load_in_torch(model: ModelSpec, weights: str) -> str:
    """Lines of Python after which `student` is the trained network, in evaluation mode; plain torch and safetensors.

    weights: URI of its safetensors file; one that is not local is opened by fsspec.
    """
    module, _, function = model.factory.partition(":")
    beside = _beside(module, model.folder)
    names = [*(["sys"] if beside else []), "safetensors.torch", *([] if storage.is_local(weights) else ["fsspec"])]
    found = [
        f"import {', '.join(names)}" + f"; sys.path.insert(0, {beside!r})" * bool(beside),
        f"from {module} import {function}; student = {function}({_arguments(model.kwargs)})",
        f"student.load_state_dict({_state(weights)}); student.eval()",
    ]
    return "\n".join(found)


def _beside(module: str, folder: str) -> str:
    """The folder that Python has to import the module from; empty where the module is installed.

    A job's copy of the folder is gone by the time that a person tries, so the folder that was submitted stands for it.
    """
    place = Path(folder, *module.split("."))
    if not folder or not (place.with_suffix(".py").is_file() or place.is_dir()):
        return ""
    parts = Path(folder).parts
    if COPIES not in parts:
        return folder
    origin = os.environ.get(environment.SENT_FROM)
    if not origin or job_folder.NAME not in parts:
        return ""
    return str(Path(origin, *parts[parts.index(job_folder.NAME) + 1 :]))


def _arguments(kwargs: dict[str, Any]) -> str:
    if all(key.isidentifier() and not keyword.iskeyword(key) for key in kwargs):
        return ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    return f"**{kwargs!r}"


def _state(weights: str) -> str:
    if storage.is_local(weights):
        return f"safetensors.torch.load_file({storage.filesystem(weights)[1]!r})"
    return f"safetensors.torch.load(fsspec.open({weights!r}).open().read())"
