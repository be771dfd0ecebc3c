"""How a batch is given to a torch module, whatever columns the examples have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from workers.data.collate import Inputs


def ask(module: Callable[..., Any], x: Inputs) -> Any:
    """What a module returns for a batch: one dense column is its argument, others are keyword arguments by their names.

    Where elements of examples are positions, the logits [P, K] of these.
    """
    if isinstance(x, Tensor):
        return module(x)
    returned = module(**x.padded())
    return x.at_positions(returned) if isinstance(returned, Tensor) else returned
