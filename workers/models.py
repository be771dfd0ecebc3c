"""A spec -> a module, with the seed that starts it, and what a module must do to be a member or a student."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from workers import factories
from workers.errors import RequestError
from workers.inputs import Inputs, as_tensor
from workers.seeds import seeded
from workers.specs import ModelSpec


def build(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """The module that `spec` describes, its random weights drawn from `seed` alone, by torch, numpy or `random`.

    Raises: `RequestError` where the factory is missing, raises, or returns anything but a module.
    """
    with seeded(seed):
        module = factories.call(spec.factory, spec.kwargs, spec.folder)
    if not isinstance(module, nn.Module):
        raise RequestError(
            f"factory '{spec.factory}' returned {type(module).__name__}; expected a torch.nn.Module "
            "from a batch to logits."
        )
    return module


def check_trainable(module: nn.Module, spec: ModelSpec, role: str) -> None:
    """Raise `RequestError` where there is nothing in `module` that training could change."""
    if not any(p.requires_grad for p in module.parameters()):
        raise RequestError(
            f"{role} model '{spec.factory}' has no parameters to train. Expected some with requires_grad; a member "
            "that is complete as it is belongs in `ensemble.checkpoints`."
        )


def check_output(module: nn.Module, spec: ModelSpec, x: Inputs, classes: int, role: str) -> None:
    """Raise `RequestError` unless `module` turns two examples into finite logits [2, `classes`]."""
    batch = as_tensor(x[: min(2, len(x))])
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(batch)
    except Exception as error:  # the user's own code: anything can come
        raise RequestError(
            f"{role} model '{spec.factory}' failed on a batch of {batch.dtype} {list(batch.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        module.train(was_training)
    expected = [len(batch), classes]
    if not isinstance(logits, torch.Tensor) or list(logits.shape) != expected:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise RequestError(
            f"{role} model '{spec.factory}' returned {found} for a batch of {len(batch)}; expected logits "
            f"{expected}, one for each of the {classes} classes of the data. Change the model's last layer, or set "
            "`data.classes`."
        )
    if not torch.isfinite(logits).all():
        raise RequestError(f"{role} model '{spec.factory}' returned NaN or infinity on two examples.")


def parameters(module: nn.Module) -> int:
    """How many numbers the module learns; one that is shared counts once."""
    return sum(p.numel() for p in module.parameters())


def seed_of(seed: int, *path: str | int) -> int:
    """A seed of its own for each thing that is drawn, far from those of its neighbours."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
