"""Hidden states, queries, keys and values of a torch module, taken while it computes its logits.

A network of transformers returns its hidden states when asked. Queries, keys and values are the outputs of the linear
layers of its self-attention, found by the names that transformers gives them. A network of the user's own returns
`{"logits": ..., "hidden_states": (...)}`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workers.data.collate import MASK, Inputs
from workers.errors import RequestError
from workers.models.ask import called, logits_in, unwrapped
from workers.models.outputs import Layers, Outputs
from workers.signals import Signal

NAMES = {
    "queries": ("query", "query_proj", "q_lin", "q_proj", "q"),
    "keys": ("key", "key_proj", "k_lin", "k_proj", "k"),
    "values": ("value", "value_proj", "v_lin", "v_proj", "v"),
}
"""Names of the linear layers of a self-attention, in the networks of transformers."""


def observe(module: nn.Module, x: Inputs, needs: Collection[Signal]) -> Outputs:
    """The outputs of a module for a batch, with the signals that terms need. module: perhaps wrapped or compiled.

    Raises: `RequestError` where the module does not offer a signal.
    """
    if not needs:
        return Outputs(logits_in(called(module, x), x, module))
    more = {"output_hidden_states": True} if Signal.HIDDEN_STATES in needs and is_of_transformers(module) else {}
    with _captured(module, NAMES if Signal.ATTENTION_INPUTS in needs else {}) as found:
        returned = called(module, x, **more)
    hidden = _hidden_states(module, returned) if Signal.HIDDEN_STATES in needs else ()
    mask = mask_of(x)
    captured = {name: _of_layers(module, name, layers, mask) for name, layers in found.items()}
    if len({len(layers) for layers in captured.values()}) > 1:
        counts = ", ".join(f"{len(layers)} {name}" for name, layers in captured.items())
        raise RequestError(
            f"{_name(module)} computes {counts} for a batch, so that they cannot be assigned to its layers. Expected "
            "as many of each; use terms on hidden states instead."
        )
    return Outputs(logits_in(returned, x, module), hidden, **captured, mask=mask)


def is_of_transformers(module: nn.Module) -> bool:
    """Whether a network is one of the package transformers, which need not be installed. module: perhaps wrapped."""
    return hasattr(unwrapped(module), "base_model_prefix")


def mask_of(x: Inputs) -> Tensor | None:
    """[B, L] bool: which elements of a batch are no padding; None where no column is padded."""
    if isinstance(x, Tensor):
        return None
    mask = x.padded().get(MASK)
    return None if mask is None else mask.bool()


def _hidden_states(module: nn.Module, returned: Any) -> Layers:
    found = returned.get("hidden_states") if isinstance(returned, Mapping) else None
    if not isinstance(found, Sequence) or not found or not all(isinstance(each, Tensor) for each in found):
        raise RequestError(
            f"{_name(module)} returns no hidden states, which a term of the objective needs. Expected a network of "
            "transformers, or one that returns {'logits': ..., 'hidden_states': (...)}."
        )
    return tuple(found)


@contextmanager
def _captured(module: nn.Module, names: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[Tensor]]]:
    """Collects the outputs of linear layers by their names, in the order of the calls."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = []

    def capture(into: list[Tensor]) -> Any:
        return lambda layer, arguments, output: into.append(output)

    for path, layer in module.named_modules():
        for name, known in names.items():
            if isinstance(layer, nn.Linear) and path.rpartition(".")[2] in known:
                hooks.append(layer.register_forward_hook(capture(found[name])))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _of_layers(module: nn.Module, name: str, layers: Sequence[Tensor], mask: Tensor | None) -> Layers:
    """The outputs [B, L, D] by layer. Others are left out, such as DeBERTa's projections of relative positions."""
    if mask is not None:
        layers = [layer for layer in layers if layer.shape[:2] == mask.shape]
    if not layers or not all(isinstance(layer, torch.Tensor) and layer.ndim == 3 for layer in layers):
        raise RequestError(
            f"{_name(module)} has no {name} [B, L, D] of a self-attention that are known by their names, which a term "
            f"of the objective needs. Expected linear layers called {', '.join(NAMES[name])}."
        )
    return tuple(layers)


def _name(module: nn.Module) -> str:
    return type(unwrapped(module)).__name__
