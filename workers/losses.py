"""The losses of distillation: pure functions of tensors.

A loss is a sum and a count, so that averages stay right however a batch is cut across workers: sums are added,
counts are added, and only then divided. The T^2 keeps the soft term's gradient of one size whatever T is
(Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from workers.targets.top_k import TopK, top_k_cross_entropy_sum

UNLABELLED = -1
"""The label of an example that has none."""


def soft_cross_entropy_sum(logits: Tensor, soft_targets: Tensor, *, temperature: float) -> Tensor:
    """T^2 * CE(soft_targets, softmax(logits / T)), summed over the rows.

    logits: [B, K] float. soft_targets: [B, K] probabilities, softened at the same T, each row summing to 1.
    Returns a scalar. Its gradient is T * (softmax(logits / T) - soft_targets): zero where the student equals the
    teacher, although the value there is the teacher's entropy and not zero.
    """
    log_probabilities = functional.log_softmax(logits / temperature, dim=-1)
    targets = soft_targets.to(log_probabilities.dtype)
    return (targets * log_probabilities).sum() * -(temperature**2)


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """CE(labels, softmax(logits)), summed over the labelled rows; 0 where no row has a label.

    logits: [B, K] float. labels: [B] int64 class ids, -1 for none. Returns a scalar.
    """
    return functional.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")


def distillation_loss(
    logits: Tensor,
    soft_targets: Tensor | TopK | None,
    labels: Tensor | None,
    *,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    rows: int | None = None,
    labelled_rows: int | None = None,
) -> Tensor:
    """soft_weight * T^2 * CE(soft_targets, softmax(logits / T)) + hard_weight * CE(labels, softmax(logits)).

    The mean over the batch; the hard term's over its labelled rows only, and 0 where there are none.

    logits: [B, K] float. soft_targets: [B, K] probabilities softened at T, or the largest of them and the rest's mass
    (`workers.targets.top_k`), or None where soft_weight is 0.
    labels: [B] int64 class ids, -1 for none, or None where hard_weight is 0.
    rows, labelled_rows: what to divide by where this batch is a part of a larger one (default: this batch's own
    counts), so that the sum over the parts is the mean over the whole. Returns a scalar.

    Raises: ValueError for a temperature that is not above 0, or a weighted term without its targets.
    Source: Hinton, Vinyals and Dean 2015, section 2 (the KL form differs by the teacher's entropy, a constant).
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number above 0")
    terms = []
    if soft_weight:
        if isinstance(soft_targets, TopK):
            soft = top_k_cross_entropy_sum(logits, soft_targets, temperature=temperature)
        elif soft_targets is None or soft_targets.shape != logits.shape:
            found = None if soft_targets is None else list(soft_targets.shape)
            raise ValueError(f"soft targets of shape {found}; expected {list(logits.shape)} as the logits")
        else:
            soft = soft_cross_entropy_sum(logits, soft_targets, temperature=temperature)
        terms.append(soft * (soft_weight / max(len(logits) if rows is None else rows, 1)))
    if hard_weight:
        if labels is None or labels.shape != logits.shape[:1]:
            found = None if labels is None else list(labels.shape)
            raise ValueError(f"labels of shape {found}; expected {list(logits.shape[:1])}, one a row")
        if labelled_rows is None:
            labelled_rows = int((labels != UNLABELLED).sum())
        terms.append(cross_entropy_sum(logits, labels) * (hard_weight / max(labelled_rows, 1)))
    return sum(terms[1:], start=terms[0]) if terms else logits.sum() * 0.0
