"""Squared distance of logits: what the soft term becomes at a high temperature.

A model matches the logits of a larger one (Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014, section 2.2:
1/2 |z - v|^2). Softmax ignores a constant in each row, so both sides are centred. The sum is divided by the number of
classes K: Hinton et al. 2015, section 2.1, find T^2 times the gradient of the soft term to be (z - v) / K for a high T
and centred logits, and that is this term's gradient at any T. So one weight means the same for both terms.

The teachers' logits v come from the soft targets as T log p, at the T of the targets. With `combine: geometric` this is
the weighted mean of the members' logits, up to the constant; with `arithmetic` it is the logits of the mean prediction.
"""

from __future__ import annotations

from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class LogitsMSE(Term):
    """1 / (2 K) * |z - v|^2 over the rows, the student's logits z and the teachers' v centred in each row.

    It follows from T only in that probabilities which are stored as 0 have no logit: at a low T unlikely classes are
    rounded there, so a T of some units serves best. Top-k targets have no logits outside the top, and are refused.
    """

    needs = frozenset({Signal.LOGITS})

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        z, v = outputs.logits, batch.soft.logits(outputs.logits.dtype)
        apart = (z - z.mean(dim=-1, keepdim=True)) - (v - v.mean(dim=-1, keepdim=True))
        return apart.square().sum() * (0.5 / z.shape[-1]), batch.rows
