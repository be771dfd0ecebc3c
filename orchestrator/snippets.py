"""Python that loads a trained student without Stillhouse: what a run prints at its end, for a person to copy."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Any

from orchestrator.preflight import COPIES
from workers import storage
from workers.specs import ModelSpec


def load_in_torch(model: ModelSpec, weights: str) -> str:
    """Lines of Python after which `student` is the trained network, in evaluation mode; plain torch and safetensors.

    weights: URI of its safetensors file; one that is not local is opened by fsspec.
    """
    module, _, function = model.factory.partition(":")
    found = [f"import sys, safetensors.torch{'' if storage.is_local(weights) else ', fsspec'}"]
    if _is_beside(module, model.folder):
        found[0] += f"; sys.path.insert(0, {model.folder!r})"
    found += [
        f"from {module} import {function}; student = {function}({_arguments(model.kwargs)})",
        f"student.load_state_dict({_state(weights)}); student.eval()",
    ]
    return "\n".join(found)


def _is_beside(module: str, folder: str) -> bool:
    """Whether Python needs to be told the folder; a job's copy of it is gone by the time that a person tries."""
    place = Path(folder, *module.split("."))
    there = place.with_suffix(".py").is_file() or place.is_dir()
    return bool(folder) and there and COPIES not in place.parts


def _arguments(kwargs: dict[str, Any]) -> str:
    if all(key.isidentifier() and not keyword.iskeyword(key) for key in kwargs):
        return ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    return f"**{kwargs!r}"


def _state(weights: str) -> str:
    if storage.is_local(weights):
        return f"safetensors.torch.load_file({storage.filesystem(weights)[1]!r})"
    return f"safetensors.torch.load(fsspec.open({weights!r}).open().read())"
