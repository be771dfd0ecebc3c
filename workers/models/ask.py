"""Calls a torch module with a batch, whatever columns the examples have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from workers.data.collate import Inputs


def ask(module: Callable[..., Any], x: Inputs) -> Any:
    """Call a module: one dense column becomes a positional argument, named columns become keyword arguments.

    Returns the module's output; where elements of examples are positions, only the logits [P, K] of these.
    """
    if isinstance(x, Tensor):
        return module(x)
    single = x.single
    returned = module(**x.padded()) if single is None else module(single)
    if isinstance(returned, Mapping) and isinstance(returned.get("logits"), Tensor):  # as transformers returns them
        returned = returned["logits"]
    return x.at_positions(returned) if isinstance(returned, Tensor) else returned
