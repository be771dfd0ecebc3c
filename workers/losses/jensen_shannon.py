"""Generalised Jensen-Shannon divergence between soft target and student, between forward and reverse KL.

JSD_b(p, q) = b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q (Agarwal et al., "On-Policy Distillation of
Language Models", 2024, section 2; b = 1/2 is Lin 1991). It is bounded, and finite even for probabilities of 0.
The paper has T = 1, where the factor T^2 is 1. At other T it keeps the gradient's size, as in `soft`; for large T the
gradient is b (1 - b) times that of `soft`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from workers.errors import RequestError
from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


@dataclass(frozen=True)
class JensenShannon(Term):
    """T^2 * JSD_beta(p, q) over the rows, p the soft target and q = softmax(z / T).

    For top-k targets it is exact over their k + 1 events. Raises: `RequestError` for a beta outside of (0, 1).
    """

    beta: float = 0.5

    needs = frozenset({Signal.PROBABILITIES})

    def __post_init__(self) -> None:
        if not 0.0 < self.beta < 1.0:
            raise RequestError(
                f"distillation.objective: `beta` of jensen_shannon is {self.beta}; expected a number between 0 and 1, "
                "both excluded. The limits are the terms `soft` and `reverse_kl`."
            )

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        targets = batch.soft
        log_q = targets.log_events(outputs.logits)
        p = targets.events(log_q.dtype)
        log_m = torch.logaddexp(p.log() + math.log(self.beta), log_q + math.log1p(-self.beta))
        of_p = (torch.xlogy(p, p) - p * log_m).sum()
        of_q = (log_q.exp() * (log_q - log_m)).sum()
        return (of_p * self.beta + of_q * (1.0 - self.beta)) * targets.temperature**2, batch.rows
