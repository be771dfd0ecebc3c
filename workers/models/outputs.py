"""The output of a model, member or student: predictors return it, and terms of the objective compare it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Layers = tuple[Tensor, ...]


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

    def detached(self) -> Outputs:
        """The same numbers without a gradient."""
        return self._each(lambda tensor: tensor.detach())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        hidden, queries, keys, values = (
            tuple(map(change, of)) for of in (self.hidden_states, self.queries, self.keys, self.values)
        )
        return Outputs(change(self.logits), hidden, queries, keys, values, self.mask)
