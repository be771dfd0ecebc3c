"""Training data of an estimator: the examples of an epoch, each with a distribution over the classes.

A network learns from soft targets p at T, by a loss whose minimum is where its own softmax at T equals p. An
estimator has no T. So it is fitted to the prediction of such a network at T = 1: softmax(T log p), which is p for T =
1. Soft targets and labels are mixed in the proportion of their weights, since the mixture minimises the weighted sum of
both cross entropies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from workers.data.arrays import Index
from workers.data.collate import Collator, collate
from workers.data.dataset import Split
from workers.data.examples import Examples
from workers.data.labels import UNLABELLED
from workers.errors import RequestError
from workers.models.predictor import Lessons, dense
from workers.specs.objective import DistillationSpec, ScheduleSpec
from workers.targets.student_store import Store


def hard(split: Split, classes: int, seed: int, collator: Collator = collate, drawn: Index | None = None) -> Lessons:
    """Examples with their labels: those with the ids `drawn`, or all in all of their views."""
    ids = np.arange(len(split.x)) if drawn is None else drawn
    labels = split.y[ids % len(split)]
    ids, labels = ids[labels != UNLABELLED], labels[labels != UNLABELLED]
    return Lessons(rows(split.x, ids, collator), one_hot(labels, classes), np.ones(len(ids), np.float32), labels, seed)


def soft(transfer: Split, store: Store, loss: DistillationSpec, seed: int, collator: Collator = collate) -> Lessons:
    """The transfer set with its soft targets, mixed with the labels as `loss` weighs them.

    Waits for parts that the teachers still compute. Raises: `RequestError` for a loss that an estimator cannot use.
    """
    weight = weighed(loss)
    ids, found = [], []
    for number in range(store.layout.parts):
        stored = store.reader(number, store.part(number)).targets.at(weight.temperature)
        ids.append(store.layout.ids(number))
        found.append(untempered(stored.events(torch.float32).numpy(), weight.temperature))
    every = np.concatenate(ids)
    labels = transfer.y[every % len(transfer)]
    targets, weights = mixed(np.concatenate(found), labels, weight.soft, weight.hard)
    used = weights > 0
    x = rows(transfer.x, every[used], collator)
    return Lessons(x, targets[used], weights[used] / weights[used].mean(), None, seed)


class Weighed(NamedTuple):
    """The settings of a loss that an estimator can use: T, and the weights of soft targets and labels."""

    temperature: float
    soft: float
    hard: float


def weighed(loss: DistillationSpec) -> Weighed:
    """The settings of a loss. Raises: `RequestError` for a loss that an estimator cannot use."""
    if loss.top_k is not None:
        raise RequestError(
            "distillation.top_k: an estimator as the student learns from the probabilities of all classes, and the "
            "store would keep the largest alone. Leave `top_k` out."
        )
    weights = {"soft": 0.0, "hard": 0.0}
    for term in loss.every_term:
        if term.term not in weights or term.kwargs:
            raise RequestError(
                f"distillation.objective: found the term '{term.term}', and an estimator as the student learns by one "
                f"fit; expected {' and '.join(weights)}, without `kwargs`."
            )
        weights[term.term] = _constant(term.weight, f"the weight of '{term.term}'")
    return Weighed(_constant(loss.temperature, "temperature"), **weights)


def _constant(value: float | ScheduleSpec, what: str) -> float:
    if isinstance(value, ScheduleSpec) and not value.is_constant:
        raise RequestError(
            f"distillation: {what} follows a schedule, and an estimator as the student is fitted once; expected a "
            "number."
        )
    return value.start if isinstance(value, ScheduleSpec) else value


def untempered(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """softmax(T log p) for each row [N, K]: the distribution that softening at T turns into p."""
    with np.errstate(divide="ignore"):
        logits = temperature * np.log(probabilities.astype(np.float64))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def mixed(
    targets: NDArray[np.float32], labels: Index, soft_weight: float, hard_weight: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets [N, K], each row summing to 1, and the weights [N] of the rows.

    The loss is soft_weight * mean over all rows + hard_weight * mean over the labelled ones, so a label counts
    N / labelled times as much as a row's soft target.
    """
    labelled = labels != UNLABELLED
    of_label = np.where(labelled, hard_weight * len(labels) / max(int(labelled.sum()), 1), 0.0).astype(np.float32)
    weights = soft_weight + of_label
    classes = targets.shape[1]
    total = soft_weight * targets + of_label[:, None] * one_hot(np.where(labelled, labels, 0), classes)
    return total / np.maximum(weights, np.finfo(np.float32).tiny)[:, None], weights


def one_hot(labels: Index, classes: int) -> NDArray[np.float32]:
    """[N, classes] float32: 1 for the class of each label."""
    return np.eye(classes, dtype=np.float32)[labels]


def rows(x: Examples, ids: Index, collator: Collator) -> NDArray[np.generic]:
    """The inputs of an estimator. Raises: `RequestError` where they are not one dense column."""
    found: NDArray[np.generic] = dense(collator(x, ids), "an estimator").numpy()
    return found
