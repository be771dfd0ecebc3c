"""The loss terms of a student, one per file, and the table of their names.

A term is `(outputs, batch) -> sum, count`, so that means do not depend on how a batch is split across workers: sums are
added, and divided by the count of the whole batch. `workers.training.objective` adds the weighted terms.
"""

from __future__ import annotations

from workers.data.labels import UNLABELLED
from workers.losses.attention import Attention
from workers.losses.attention_transfer import AttentionTransfer
from workers.losses.channel_kl import ChannelKL
from workers.losses.distillation import distillation_loss
from workers.losses.hard import Hard
from workers.losses.hidden_states import HiddenCosine, HiddenMSE
from workers.losses.jensen_shannon import JensenShannon
from workers.losses.logits_mse import LogitsMSE
from workers.losses.relational import RelationalAngle, RelationalDistance
from workers.losses.relations import Relations
from workers.losses.reverse_kl import ReverseKL
from workers.losses.soft import Soft
from workers.losses.term import Batch, Outputs, Term

TERMS: dict[str, type[Term]] = {
    "soft": Soft,
    "reverse_kl": ReverseKL,
    "jensen_shannon": JensenShannon,
    "logits_mse": LogitsMSE,
    "hard": Hard,
    "masked_lm": Hard,
    "hidden_cosine": HiddenCosine,
    "hidden_mse": HiddenMSE,
    "relations": Relations,
    "attention": Attention,
    "attention_transfer": AttentionTransfer,
    "channel_kl": ChannelKL,
    "relational_distance": RelationalDistance,
    "relational_angle": RelationalAngle,
}
"""The terms by their names in `distillation.objective`; `term: module:Class` names a term of the user."""

__all__ = ["TERMS", "UNLABELLED", "Batch", "Outputs", "Term", "distillation_loss"]
