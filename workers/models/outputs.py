"""What a model answers, member or student: the one thing that predictors return and terms of the objective compare."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """What a model answers for a batch of B examples.

    logits: [P, K] float32, a row for each position: for each example, P = B, or for each of some elements. Of a model
    that answers with probabilities these are log-probabilities, which are logits whose softmax is the same
    probabilities; so T acts on them as softmax(log p / T).
    hidden_states, attentions: of each layer, where the model gives them.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
