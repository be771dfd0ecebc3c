"""A masked language model that computes logits of the positions alone, and not of every token.

Its head multiplies each hidden state by the whole vocabulary. With 15% of the tokens masked, that is most of the
memory and time of a small network. So the hidden states of the positions are selected before the head.

A checkpoint's vocabulary may be padded to a round number. No text has the ids behind those of the tokenizer, so that
their logits are left out.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn

POSITIONS = "positions"
"""The argument of such a network: [P] int64, places among all B * L padded elements of a batch."""


def only(module: nn.Module, tokens: int) -> nn.Module:
    """The same network, called with `positions`: its logits are [P, V]. Its weights and their names stay.

    tokens: V, the number of ids of the tokenizer, at most that of the network; 0: all of the network.
    """
    module.__class__ = _with_positions(type(module))
    module.tokens = tokens  # type: ignore[assignment]
    return module


def computes(module: object) -> bool:
    """Whether a network takes `positions`."""
    return isinstance(module, AtPositions)


class AtPositions:
    """A network of transformers whose encoder's states are cut to the positions before its head."""

    tokens: int

    def forward(self, *arguments: Any, positions: Tensor | None = None, **named: Any) -> Any:
        encoder: nn.Module = getattr(self, self.base_model_prefix)  # type: ignore[attr-defined]
        if positions is None:
            return _cut(super().forward(*arguments, **named), self.tokens)  # type: ignore[misc]

        def cut(module: nn.Module, given: Any, output: Any) -> Any:
            states = output["last_hidden_state"]
            output["last_hidden_state"] = states.flatten(0, 1).index_select(0, positions).unsqueeze(0)
            return output

        hook = encoder.register_forward_hook(cut)
        try:
            returned = super().forward(*arguments, **{**named, "return_dict": True})  # type: ignore[misc]
        finally:
            hook.remove()
        returned["logits"] = returned["logits"].squeeze(0)
        return _cut(returned, self.tokens)


def _cut(returned: Any, tokens: int) -> Any:
    """The output with the logits of the first `tokens` ids alone; 0: of all."""
    if isinstance(returned, MutableMapping) and 0 < tokens < returned["logits"].shape[-1]:
        returned["logits"] = returned["logits"][..., :tokens]
    return returned


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}


def _with_positions(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a network with `AtPositions`, under its own name, which its configuration keeps."""
    if kind not in _KINDS:
        _KINDS[kind] = type(kind.__name__, (AtPositions, kind), {})
    return _KINDS[kind]
