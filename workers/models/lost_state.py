"""Finds state outside the state dict that differs between two networks of one factory.

It only explains a difference: networks with equal outputs may differ in state that only training uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEPTH = 3
"""Search depth in nested lists and dictionaries."""


def differing_state(one: nn.Module, other: nn.Module) -> list[str]:
    """The names of values that differ between `one` and `other`, each with its kind of state."""
    found = dict(_outside(other))
    return [
        f"{name} ({kind})"
        for name, (kind, value) in _outside(one)
        if name not in found or not _equal(value, found[name][1])
    ]


def _outside(module: nn.Module) -> Iterator[tuple[str, tuple[str, Any]]]:
    for prefix, each in module.named_modules():
        place = f"{prefix}." if prefix else ""
        for name in sorted(each._non_persistent_buffers_set):
            yield place + name, ("a buffer with persistent=False", each._buffers[name])
        for name, value in vars(each).items():
            if name not in OF_TORCH:
                yield from _inside(place + name, value, DEPTH)


OF_TORCH = set(vars(nn.Module()))
"""Attributes of every module: registered tensors and modules are among them, and are saved."""


def _inside(name: str, value: Any, depth: int) -> Iterator[tuple[str, tuple[str, Any]]]:
    if isinstance(value, nn.Module):  # an unregistered one, inside a list
        for inner, tensor in value.state_dict(keep_vars=True).items():
            yield f"{name}.{inner}", ("of a module in a plain list", tensor)
    elif isinstance(value, (Tensor, np.ndarray)):
        yield name, (f"a plain {'tensor' if isinstance(value, Tensor) else 'array'} attribute", value)
    elif isinstance(value, (bool, int, float)):
        yield name, ("a plain attribute", value)
    elif isinstance(value, (list, tuple, dict)) and depth:
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _inside(f"{name}[{key!r}]", each, depth - 1)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.detach().cpu(), other.detach().cpu())
    return type(one) is type(other) and bool(np.array_equal(one, other))
