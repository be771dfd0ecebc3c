"""Metrics of predictions, kept as sums and counts, so that the figures of parts of a data set can be added.

The inputs are log-probabilities at T = 1. So members, ensemble and student are measured alike, and a label
of probability 10^-60 does not underflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.data.arrays import Index, micro_batch
from workers.data.collate import Collator, collate
from workers.data.examples import Examples, by_length, embedded, positions_of, values_of
from workers.device import device
from workers.models.predictor import Predictor
from workers.models.torch_module import predictor_of
from workers.specs import Precision

BINS = 15
"""Equal bins of confidence for the calibration error, as in Guo et al. 2017."""

CONFUSED = 100
"""Most classes for which a confusion matrix is counted."""

Probabilities = NDArray[np.float32]
LogProbabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Inference:
    """How a network computes its predictions: precision of its matrix products, and examples per forward pass."""

    precision: Precision = "auto"
    micro_batch: int | None = None
    """None: chosen by the size of an example."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums over predictions: examples, correct ones, NLL, and counts per bin of confidence and per class.

    bin_examples, bin_confidence, bin_correct: [BINS] float64. labelled, predicted, hits: [K] int64, examples of each
    class by their labels, by the predictions, and by both. confusion: [K, K] int64, examples by label and prediction;
    [0, 0] for more than `CONFUSED` classes.
    """

    examples: int
    correct: int
    nll: float
    bin_examples: NDArray[np.float64]
    bin_confidence: NDArray[np.float64]
    bin_correct: NDArray[np.float64]
    labelled: NDArray[np.int64]
    predicted: NDArray[np.int64]
    hits: NDArray[np.int64]
    confusion: NDArray[np.int64]

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: getattr(self, name) + getattr(other, name) for name in self.__annotations__})

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples

    @property
    def mean_nll(self) -> float:
        """Negative log-likelihood of the true label, nats per example; infinite where one label has probability 0."""
        return self.nll / self.examples

    @property
    def ece(self) -> float:
        """Expected calibration error: |confidence - accuracy|, averaged over the bins by their examples."""
        return float(np.abs(self.bin_confidence - self.bin_correct).sum() / self.examples)

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that occur among labels or predictions: 2 hits / (labelled + predicted)."""
        occurs = self.labelled + self.predicted
        return float((2 * self.hits[occurs > 0] / occurs[occurs > 0]).mean())


def measure(log_probabilities: NDArray[Any], labels: Index) -> Sums:
    """Measure predictions against labels.

    log_probabilities: [N, K] float32 or float64, rows whose exp sums to 1. labels: [N] int64 class ids.
    Nothing is clamped: a label of log-probability -inf, which follows from a logit of -inf, makes the NLL infinite.
    """
    rows, best, classes = np.arange(len(labels)), log_probabilities.argmax(axis=1), log_probabilities.shape[1]
    confidence = np.exp(log_probabilities[rows, best].astype(np.float64))
    right = best == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return Sums(
        examples=len(labels),
        correct=int(right.sum()),
        nll=float(-log_probabilities[rows, labels].sum(dtype=np.float64)),
        bin_examples=np.bincount(bins, minlength=BINS).astype(np.float64),
        bin_confidence=np.bincount(bins, weights=confidence, minlength=BINS).astype(np.float64),
        bin_correct=np.bincount(bins, weights=right, minlength=BINS).astype(np.float64),
        labelled=np.bincount(labels, minlength=classes),
        predicted=np.bincount(best, minlength=classes),
        hits=np.bincount(labels[right], minlength=classes),
        confusion=_confusion(labels, best, classes),
    )


def _confusion(labels: Index, predicted: Index, classes: int) -> NDArray[np.int64]:
    if classes > CONFUSED:
        return np.zeros((0, 0), np.int64)
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def predict(model: Predictor | nn.Module, x: Examples, how: Inference = Inference("float32")) -> Probabilities:
    """softmax(logits) at T = 1: [P, K] float32, one row per position."""
    return torch.cat([torch.softmax(logits, -1).cpu() for logits in _logits(model, x, how)]).numpy()


def log_probabilities(
    model: Predictor | nn.Module,
    x: Examples,
    how: Inference,
    labels: Index | None = None,
    collator: Collator = collate,
) -> LogProbabilities:
    """log_softmax(logits) at T = 1, in float32: [P, K]; with `labels` [P] int64 only the labels' entries, [P]."""
    order = by_length(x, np.arange(len(x)))
    rows_of = None if order is None else positions_of(x, len(x)).within(np.arange(len(x)), order)
    wanted = labels if labels is None or rows_of is None else labels[rows_of]
    found, start = [], 0
    for logits in _logits(model, x, how, collator, order):
        rows = torch.log_softmax(logits, -1).cpu()
        if wanted is not None:
            rows = rows[torch.arange(len(rows)), torch.from_numpy(wanted[start : start + len(rows)])]
        found.append(rows)
        start += len(rows)
    answers = torch.cat(found).numpy()
    return answers if rows_of is None else answers[np.argsort(rows_of)]


@torch.no_grad()
def _logits(
    model: Predictor | nn.Module, x: Examples, how: Inference, collator: Collator = collate, order: Index | None = None
) -> Iterator[Tensor]:
    """Logits [p, K] float32 on the device, one micro-batch at a time. order: of the examples; None: as they are."""
    place = device()
    predictor = predictor_of(model).to(place)
    if predictor.module is not None:
        predictor.module.eval()
    size = how.micro_batch or micro_batch(values_of(x), embedded(x), place.type)
    every = np.arange(len(x)) if order is None else order
    for start in range(0, len(x), size):
        batch = collator(x, every[start : start + size])
        yield predictor(batch.to(place), how.precision).logits
