"""The terms that a student learns from, one a file, and the table from name to term.

A term is `(outputs, batch) -> sum, count`, so that averages stay right however a batch is cut across workers: sums are
added, and divided by the count of the whole batch. `workers.training.objective` weighs terms and adds them.
"""

from __future__ import annotations

from workers.data.labels import UNLABELLED
from workers.losses.distillation import distillation_loss
from workers.losses.hard import Hard
from workers.losses.jensen_shannon import JensenShannon
from workers.losses.logits_mse import LogitsMSE
from workers.losses.reverse_kl import ReverseKL
from workers.losses.soft import Soft
from workers.losses.term import Batch, Outputs, Term

TERMS: dict[str, type[Term]] = {
    "soft": Soft,
    "reverse_kl": ReverseKL,
    "jensen_shannon": JensenShannon,
    "logits_mse": LogitsMSE,
    "hard": Hard,
}
"""By the name in `distillation.objective`; `term: module:Class` names one of the user's own."""

__all__ = ["TERMS", "UNLABELLED", "Batch", "Outputs", "Term", "distillation_loss"]
