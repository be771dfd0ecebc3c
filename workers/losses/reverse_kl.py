"""Reverse KL: T^2 * KL(softmax(z / T) || p).

It penalises classes that the student finds likely and the teacher does not. So a small student learns the teacher's
main modes instead of covering all of them (Gu, Dong, Wei and Huang, "MiniLLM", 2024, section 2.1). The paper has
T = 1, where the factor is 1. At other T, T^2 keeps the gradient's size, as in `soft`: for large T both have the same.
"""

from __future__ import annotations

from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class ReverseKL(Term):
    """T^2 * sum of q (log q - log p) over the rows, q = softmax(z / T) and p the soft target.

    A p that is stored as 0 is replaced by half of the smallest number that can be stored, so the term is finite. For
    top-k targets it is exact over their k + 1 events.
    """

    needs = frozenset({Signal.PROBABILITIES})

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        targets = batch.soft
        log_q = targets.log_events(outputs.logits)
        log_p = targets.log_targets(log_q.dtype)
        return (log_q.exp() * (log_q - log_p)).sum() * targets.temperature**2, batch.rows
