"""The output of a model, member or student: predictors return it, and terms of the objective compare it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Layers = tuple[Tensor, ...]
LAYERS = ("hidden_states", "queries", "keys", "values")
"""Fields of `Outputs` with a tensor for each layer."""
SUMS_TO_1 = 1e-2
"""Tolerance for the sum of a row of probabilities, which bfloat16 has rounded."""


class Outputs(NamedTuple):
    """The output of a model for a batch of B examples, padded to L elements where they are sequences.

    logits: [P, K] float32, a row per position: per example (P = B), or per selected element. For a model that returns
    probabilities p they are log p, whose softmax is p; so T acts on them as softmax(log p / T).
    hidden_states: [B, L, D] or [B, ...], of the embeddings and then of each layer. queries, keys, values: [B, L, D] of
    each layer's self-attention, its heads side by side. Empty where no term needs them.
    mask: [B, L] bool, which elements are no padding; None where examples have no padding.
    """

    logits: Tensor
    hidden_states: Layers = ()
    queries: Layers = ()
    keys: Layers = ()
    values: Layers = ()
    mask: Tensor | None = None

    def float(self) -> Outputs:
        """All numbers as float32."""
        return self._each(lambda tensor: tensor.float())

    def to(self, device: torch.device | str) -> Outputs:
        """The same on a device."""
        moved = self._each(lambda tensor: tensor.to(device))
        return moved if self.mask is None else moved._replace(mask=self.mask.to(device))

    def only(self, wanted: Mapping[str, Collection[int]]) -> Outputs:
        """The same with empty tensors for the layers that are not wanted. wanted: numbers of layers, by field."""

        def kept(name: str, layers: Layers) -> Layers:
            return tuple(layer if k in wanted.get(name, ()) else layer.new_empty(0) for k, layer in enumerate(layers))

        hidden, queries, keys, values = (kept(name, getattr(self, name)) for name in LAYERS)
        return Outputs(self.logits, hidden, queries, keys, values, self.mask)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        hidden, queries, keys, values = (tuple(map(change, getattr(self, name))) for name in LAYERS)
        return Outputs(change(self.logits), hidden, queries, keys, values, self.mask)


def are_probabilities(logits: Tensor) -> bool:
    """Whether the rows of `logits` [P, K] are non-negative and sum to 1, as of a network that ends in a softmax."""
    return bool((logits >= 0).all()) and bool(((logits.float().sum(dim=-1) - 1).abs() <= SUMS_TO_1).all())


def probabilities(logits: Tensor) -> Tensor:
    """What a model answers [P, K], float32: its softmax, or `logits` themselves where they are probabilities already.

    A second softmax would hide how sure the model is.
    """
    return logits.float() if are_probabilities(logits) else logits.float().softmax(dim=-1)
