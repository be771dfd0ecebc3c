"""The loss of Hinton et al. 2015 as one function, for scripts that only need its two terms."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.data.labels import UNLABELLED
from workers.losses.hard import Hard
from workers.losses.soft import Soft
from workers.losses.term import Batch, Outputs, share
from workers.targets.base import Columns
from workers.targets.dense import Dense

UNKNOWN = torch.empty(0, dtype=torch.int64)


def distillation_loss(
    logits: Tensor,
    soft_targets: Tensor | Columns | None,
    labels: Tensor | None,
    *,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    rows: int | None = None,
    labelled_rows: int | None = None,
) -> Tensor:
    """soft_weight * T^2 * CE(soft_targets, softmax(logits / T)) + hard_weight * CE(labels, softmax(logits)).

    The mean over the batch. The hard term's mean is over the labelled rows only, and 0 without any.

    logits: [B, K] float. soft_targets: [B, K] probabilities softened at T, or targets that carry their T, or None
    where soft_weight is 0. labels: [B] int64 class ids, -1 for none, or None where hard_weight is 0.
    rows, labelled_rows: the divisors where this batch is a part of a larger one (default: this batch's own counts), so
    that the sum over the parts is the mean over the whole. Returns a scalar.

    Raises: ValueError for a temperature that is not above 0, or a weighted term without its targets; `RequestError`
    for targets that carry another T.
    Source: Hinton, Vinyals and Dean 2015, section 2 (the KL form differs by the teacher's entropy, a constant).
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number above 0")
    outputs, terms = Outputs(logits), []
    if soft_weight:
        targets = Dense(soft_targets, temperature) if isinstance(soft_targets, Tensor) else soft_targets
        if targets is None or (isinstance(soft_targets, Tensor) and soft_targets.shape != logits.shape):
            found = None if targets is None else list(targets.columns[0].shape)
            raise ValueError(f"soft targets of shape {found}; expected {list(logits.shape)} as the logits")
        batch = Batch(UNKNOWN, targets.at(temperature), len(logits) if rows is None else rows, 0)
        terms.append(share(Soft()(outputs, batch), soft_weight))
    if hard_weight:
        if labels is None or labels.shape != logits.shape[:1]:
            found = None if labels is None else list(labels.shape)
            raise ValueError(f"labels of shape {found}; expected {list(logits.shape[:1])}, one a row")
        if labelled_rows is None:
            labelled_rows = int((labels != UNLABELLED).sum())
        terms.append(share(Hard()(outputs, Batch(labels, None, 0, labelled_rows)), hard_weight))
    return sum(terms[1:], start=terms[0]) if terms else logits.sum() * 0.0
