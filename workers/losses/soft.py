"""Soft cross entropy, which is forward KL up to a constant: T^2 * CE(p, softmax(z / T)).

The factor T^2 makes the gradient's size independent of T (Hinton, Vinyals and Dean, "Distilling the Knowledge in a
Neural Network", 2015, section 2). KL(p || q) = CE(p, q) - H(p), and the teacher's entropy H(p) has no gradient.
"""

from __future__ import annotations

from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class Soft(Term):
    """T^2 * CE(p, q) over the rows, p the soft target and q = softmax(z / T).

    For top-k targets it is exact over their k + 1 events.
    """

    needs = frozenset({Signal.PROBABILITIES})

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        return batch.soft.cross_entropy_sum(outputs.logits), batch.rows

    def entropy_weight(self, temperature: float) -> float:
        return temperature**2
