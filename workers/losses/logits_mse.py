"""Squared distance of logits, the limit of the soft term at a high temperature.

A model matches the logits of a larger one (Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014, section 2.2:
1/2 |z - v|^2). Softmax ignores a constant in each row, so both sides are centred. The sum is divided by the number of
classes K: by Hinton et al. 2015, section 2.1, T^2 times the gradient of the soft term is (z - v) / K for a high T and
centred logits. This term has that gradient at any T, so a weight has the same meaning for both terms.

The teachers' logits v come from the soft targets as T log p, at the T of the targets. With `combine: geometric` this is
the weighted mean of the members' logits, up to the constant; with `arithmetic` it is the logits of the mean prediction.
"""

from __future__ import annotations

from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class LogitsMSE(Term):
    """1 / (2 K) * |z - v|^2 over the rows, with the student's logits z and the teachers' v centred in each row.

    T matters only through rounding: at a low T unlikely classes are stored as 0, and so have no logit. A T of a few
    units avoids this. Top-k targets have no logits outside the top k, and are rejected.
    """

    needs = frozenset({Signal.LOGITS})

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        z, v = outputs.logits, batch.soft.logits(outputs.logits.dtype)
        apart = (z - z.mean(dim=-1, keepdim=True)) - (v - v.mean(dim=-1, keepdim=True))
        return apart.square().sum() * (0.5 / z.shape[-1]), batch.rows
