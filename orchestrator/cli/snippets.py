"""Python snippets that load a trained student without Stillhouse; a run prints them at its end."""

from __future__ import annotations

import keyword
import os
from pathlib import Path
from typing import Any

from orchestrator.cli import job_folder
from orchestrator.cluster import environment
from orchestrator.stages.places import COPIES
from workers import storage
from workers.specs.models import AUTO, AnyModel, ModelSpec, SklearnModel, TransformersModel


def load(model: AnyModel, weights: str) -> str:
    """Python code that loads the trained model as `student`, using only packages that its kind needs anyway.

    weights: URI of its file. Returns an empty text for the user's own kinds.
    """
    if isinstance(model, ModelSpec):
        return load_in_torch(model, weights)
    if isinstance(model, TransformersModel):
        return load_in_transformers(model, weights)
    return load_in_skops(weights) if isinstance(model, SklearnModel) else ""


def load_in_transformers(model: TransformersModel, weights: str) -> str:
    """Python code that loads the trained network and its tokenizer with transformers; remote folders are copied."""
    folder, kind = storage.parent(weights), AUTO[model.task]
    if storage.is_local(weights):
        place = repr(storage.filesystem(folder)[1])
        first = f"from transformers import AutoTokenizer, {kind}"
    else:
        first = f"import fsspec; from transformers import AutoTokenizer, {kind}; " + (
            f"fsspec.get_mapper({folder!r}).fs.get({storage.filesystem(folder)[1]!r}, 'student', recursive=True)"
        )
        place = "'student'"
    return f"{first}\nstudent, tokenizer = {kind}.from_pretrained({place}), AutoTokenizer.from_pretrained({place})"


def load_in_skops(weights: str) -> str:
    """Python code that loads the fitted estimator as `student`; it shows types that skops does not trust."""
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
    """Python code that loads the trained network as `student`, in evaluation mode, with plain torch and safetensors.

    weights: URI of its safetensors file; the code opens remote files by fsspec.
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
    """The folder from which Python has to import the module; empty where the module is installed.

    For a job it is the submitted folder, since the job's copy no longer exists when the user runs the code.
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
