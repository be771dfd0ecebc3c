"""Calls a torch module with a batch, whatever columns the examples have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from workers.data.collate import Inputs, NamedInputs
from workers.data.tokens import TYPES
from workers.models import at_positions


def ask(module: Callable[..., Any], x: Inputs) -> Any:
    """Call a module: one dense column becomes a positional argument, named columns become keyword arguments.

    Returns the module's output; where elements of examples are positions, only the logits [P, K] of these.
    """
    return logits_in(called(module, x), x, module)


def called(module: Callable[..., Any], x: Inputs, **more: Any) -> Any:
    """What a module returns for a batch. more: further keyword arguments."""
    if isinstance(x, Tensor):
        return module(x, **more)
    single = x.single
    if single is not None:
        return module(single, **more)
    inner = unwrapped(module)
    if at_positions.computes(inner) and x.positions is not None:
        more = {**more, at_positions.POSITIONS: x.places().to(x.device, non_blocking=True)}
    return module(**arguments(inner, x), **more)


def arguments(inner: Callable[..., Any], x: NamedInputs) -> dict[str, Tensor]:
    """The keyword arguments of a module without wrappers: padded columns [B, ...], and their masks."""
    found = x.padded()
    if TYPES in found and isinstance(inner, nn.Module) and not _tells_types(inner):
        del found[TYPES]  # of pairs
    return found


def logits_in(returned: Any, x: Inputs, module: Callable[..., Any]) -> Any:
    """The logits in what `module` returned for `x`, of positions alone."""
    if isinstance(returned, Mapping) and isinstance(returned.get("logits"), Tensor):  # as transformers returns them
        returned = returned["logits"]
    if isinstance(x, Tensor) or not isinstance(returned, Tensor) or at_positions.computes(unwrapped(module)):
        return returned
    return x.at_positions(returned)


def unwrapped(module: Callable[..., Any]) -> Callable[..., Any]:
    """The module itself, without the wrappers of compilation and of data-parallel training."""
    for wrapper in ("_orig_mod", "module"):
        module = getattr(module, wrapper, module)
    return module


def _tells_types(inner: nn.Module) -> bool:
    """Whether a network tells the two texts of a pair apart; one like RoBERTa has an embedding of a single type."""
    known = getattr(getattr(inner, "config", None), "type_vocab_size", None)
    return _takes_types(type(inner).forward) and not (isinstance(known, int) and known < 2)


@lru_cache(maxsize=64)
def _takes_types(forward: Callable[..., Any]) -> bool:
    """Whether the forward method of a network takes token types."""
    parameters = inspect.signature(forward).parameters.values()
    return any(each.name == TYPES or each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
