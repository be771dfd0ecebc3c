"""The output of a model, member or student: predictors return it, and terms of the objective compare it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """The output of a model for a batch of B examples.

    logits: [P, K] float32, a row per position: per example (P = B), or per selected element. For a model that returns
    probabilities p they are log p, whose softmax is p; so T acts on them as softmax(log p / T).
    hidden_states, attentions: per layer, where the model provides them.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
