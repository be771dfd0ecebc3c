"""A spec -> a module, with the seed that starts it, and what a module must do to be a member or a student."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from workers.data.arrays import Inputs, as_tensor
from workers.errors import RequestError
from workers.seeds import seeded
from workers.specs import ModelSpec
from workers.user_code import factories


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
    """Raise `RequestError` where there is nothing in `module` that training could change, or not yet."""
    lazy = [name for name, each in (*module.named_parameters(), *module.named_buffers()) if nn.parameter.is_lazy(each)]
    if lazy:
        raise RequestError(
            f"{role} model '{spec.factory}' has lazy layers: '{lazy[0]}' has no shape before the first batch. Give "
            "the layer its size, or let the factory call the model once on a batch of zeros before it returns it."
        )
    if not any(p.requires_grad for p in module.parameters()):
        raise RequestError(
            f"{role} model '{spec.factory}' has no parameters to train. Expected some with requires_grad; a member "
            "that is complete as it is belongs in `ensemble.checkpoints`."
        )


def check_output(module: nn.Module, spec: ModelSpec, x: Inputs, classes: int, role: str) -> None:
    """Raise `RequestError` unless `module` turns two examples into finite logits [2, `classes`]."""
    logits = answers(module, spec, as_tensor(x[: min(2, len(x))]), classes, role)
    if not torch.isfinite(logits).all():
        raise RequestError(f"{role} model '{spec.factory}' returned NaN or infinity on two examples.")


def answers(module: nn.Module, spec: ModelSpec, batch: Tensor, classes: int, role: str) -> Tensor:
    """What `module` answers in evaluation mode: logits [B, `classes`]; leaves it in the mode that it was in.

    batch: [B, ...] as `as_tensor` makes it. Raises: `RequestError` where it raises or returns anything else.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(batch)
    except (Exception, SystemExit) as error:  # the user's own code: anything can come
        raise RequestError(
            f"{role} model '{spec.factory}' failed on a batch of {batch.dtype} {list(batch.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        module.train(was_training)
    return logits_of(logits, spec, batch, classes, role)


def logits_of(returned: object, spec: ModelSpec, batch: Tensor, classes: int, role: str, when: str = "") -> Tensor:
    """What a model returned for `batch`. Raises: `RequestError` unless it is a tensor [B, `classes`].

    when: the mode that it was in, for the message.
    """
    expected = [len(batch), classes]
    found: object = type(returned).__name__
    if isinstance(returned, Tensor):
        found = list(returned.shape)
        if found == expected and returned.layout == torch.strided and not returned.is_complex():
            return returned.as_subclass(Tensor)
        if found == expected:
            found = f"{returned.dtype} {found} ({returned.layout})"
    raise RequestError(
        f"{role} model '{spec.factory}' returned {found} for a batch of {len(batch)}{when}; expected logits "
        f"{expected}, one for each of the {classes} classes (`data.classes`, else one more than the largest label of "
        "data.train), and nothing beside them. Change the model's last layer or what it returns, correct the "
        "label, or set `data.classes`."
    )


def parameters(module: nn.Module) -> int:
    """How many numbers the module learns; one that is shared counts once."""
    return sum(p.numel() for p in module.parameters())


def seed_of(seed: int, *path: str | int) -> int:
    """A seed of its own for each thing that is drawn, far from those of its neighbours."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
