"""Soft cross entropy, which is forward KL but for a constant: T^2 * CE(p, softmax(z / T)).

The T^2 keeps the gradient's size whatever T is (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural
Network", 2015, section 2). KL(p || q) = CE(p, q) - H(p), and the teacher's entropy H(p) has no gradient.
"""

from __future__ import annotations

from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class Soft(Term):
    """T^2 * CE(p, q) over the rows, p the soft target and q = softmax(z / T).

    Of top-k targets: over their k + 1 events, exactly.
    """

    needs = frozenset({Signal.PROBABILITIES})

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        return batch.soft.cross_entropy_sum(outputs.logits), batch.rows

    def entropy_weight(self, temperature: float) -> float:
        return temperature**2
