"""Reverse KL: T^2 * KL(softmax(z / T) || p).

It punishes what the student finds likely and the teacher does not, so a small student settles on the teacher's main
modes instead of spreading over all of them (Gu, Dong, Wei and Huang, "MiniLLM", 2024, section 2.1). The paper has
T = 1, where the factor is 1. At other T, T^2 keeps the gradient's size, as in `soft`: for large T both have the same.
"""

from __future__ import annotations

from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class ReverseKL(Term):
    """T^2 * sum of q (log q - log p) over the rows, q = softmax(z / T) and p the soft target.

    Where p is stored as 0 it counts as half of the least number that could have been stored, so the term is finite.
    Of top-k targets: over their k + 1 events, exactly.
    """

    needs = frozenset({Signal.PROBABILITIES})

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        targets = batch.soft
        log_q = targets.log_events(outputs.logits)
        log_p = targets.log_targets(log_q.dtype)
        return (log_q.exp() * (log_q - log_p)).sum() * targets.temperature**2, batch.rows
