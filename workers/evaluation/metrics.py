"""Metrics of predictions, kept as sums and counts, so that the figures of parts of a data set can be added.

The inputs are log-probabilities at T = 1. So members, ensemble and student are measured alike, and a label
of probability 10^-60 does not underflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.data.arrays import Float64, Index, micro_batch
from workers.data.collate import Collator, collate
from workers.data.dataset import Dataset, Split
from workers.data.examples import Examples, by_length, embedded, positions_of, values_of
from workers.device import device
from workers.evaluation import bootstrap
from workers.models.precision import computed_in
from workers.models.predictor import Predictor
from workers.models.torch_module import predictor_of
from workers.specs.base import Precision

BINS = 15
"""Equal bins of confidence for the calibration error, as in Guo et al. 2017."""

CONFUSED = 100
"""Most classes for which a confusion matrix is counted."""

EXAMPLES, CORRECT, NLL, BRIER, GAPS = range(5)
"""Columns of sums; from `GAPS` on one for each bin."""
COLUMNS = GAPS + BINS
FIGURES = ("accuracy", "nll", "brier", "ece")
"""What `figures` returns, in this order."""
CHUNK_VALUES = 2**20
"""Probabilities that are held in float64 at once."""

Probabilities = NDArray[np.float32]
LogProbabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Inference:
    """How a network computes its predictions: precision of its matrix products, and examples per forward pass."""

    precision: Precision = "auto"
    micro_batch: int | None = None
    """None: chosen by the size of an example."""
    on: str | None = None
    """The device; None: CUDA where it is available."""


class Blocks(NamedTuple):
    """Which block each of P rows belongs to (`workers.evaluation.bootstrap`). of: [P] int64 in [0, number)."""

    of: Index
    number: int

    def at(self, rows: slice) -> Blocks:
        """The blocks of some of the rows."""
        return Blocks(self.of[rows], self.number)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums over predictions, by block of rows, per bin of confidence, and per class.

    nll: the sum over all rows in their order, whose rounding does not depend on the blocks. of_blocks: [B, COLUMNS]
    float64: rows, correct ones, NLL, Brier score, and for each bin of confidence the sum of confidence - correctness.
    bin_examples, bin_confidence, bin_correct: [BINS] float64. labelled, predicted, hits: [K] int64, examples of each
    class by their labels, by the predictions, and by both. confusion: [K, K] int64, examples by label and prediction;
    [0, 0] for more than `CONFUSED` classes.
    """

    nll: float
    of_blocks: Float64
    bin_examples: Float64
    bin_confidence: Float64
    bin_correct: Float64
    labelled: NDArray[np.int64]
    predicted: NDArray[np.int64]
    hits: NDArray[np.int64]
    confusion: NDArray[np.int64]

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: getattr(self, name) + getattr(other, name) for name in self.__annotations__})

    @property
    def examples(self) -> int:
        return round(float(self.of_blocks[:, EXAMPLES].sum()))

    @property
    def accuracy(self) -> float:
        return float(self.of_blocks[:, CORRECT].sum()) / self.examples

    @property
    def mean_nll(self) -> float:
        """Negative log-likelihood of the true label, nats per example; infinite where one label has probability 0."""
        return self.nll / self.examples

    @property
    def brier(self) -> float:
        """Brier score: the squared distance of probabilities and label, 0 to 2, averaged over examples (Brier 1950)."""
        return float(self.of_blocks[:, BRIER].sum()) / self.examples

    @property
    def ece(self) -> float:
        """Expected calibration error: |confidence - accuracy|, averaged over the bins by their examples."""
        return float(np.abs(self.bin_confidence - self.bin_correct).sum() / self.examples)

    @property
    def figures(self) -> dict[str, float]:
        """The figures of `FIGURES`, by their names."""
        return dict(zip(FIGURES, (self.accuracy, self.mean_nll, self.brier, self.ece), strict=True))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that occur among labels or predictions: 2 hits / (labelled + predicted)."""
        occurs = self.labelled + self.predicted
        return float((2 * self.hits[occurs > 0] / occurs[occurs > 0]).mean())


def blocks_of(data: Dataset, split: str, ids: Index) -> Blocks:
    """The blocks of the rows of some examples: groups of the split, or each example by itself."""
    whole: Split = getattr(data, split)
    groups = data.groups.get(split)
    blocks = bootstrap.blocks_of(np.arange(len(whole)) if groups is None else groups)
    return Blocks(whole.rows.repeated(blocks[ids], ids), int(blocks.max()) + 1)


def figures(sums: Float64) -> Float64:
    """`FIGURES` of sums [..., COLUMNS]: [4, ...] float64."""
    rows = sums[..., EXAMPLES]
    gaps = np.abs(sums[..., GAPS:]).sum(axis=-1)
    return np.stack([sums[..., CORRECT] / rows, sums[..., NLL] / rows, sums[..., BRIER] / rows, gaps / rows])


def measure(log_probabilities: NDArray[Any], labels: Index, blocks: Blocks | None = None) -> Sums:
    """Measure predictions against labels.

    log_probabilities: [N, K] float32 or float64, rows whose exp sums to 1. labels: [N] int64 class ids. blocks: of the
    rows; None: all in one. Nothing is clamped: a label of log-probability -inf, which follows from a logit of -inf,
    makes the NLL infinite.
    """
    rows, best, classes = np.arange(len(labels)), log_probabilities.argmax(axis=1), log_probabilities.shape[1]
    confidence = np.exp(log_probabilities[rows, best].astype(np.float64))
    right = best == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    in_blocks = blocks or Blocks(np.zeros(len(labels), np.int64), 1)
    of_each = np.empty((len(labels), GAPS))
    of_each[:, EXAMPLES], of_each[:, CORRECT] = 1.0, right
    of_each[:, NLL], of_each[:, BRIER] = -log_probabilities[rows, labels], _brier(log_probabilities, labels)
    return Sums(
        nll=float(-log_probabilities[rows, labels].sum(dtype=np.float64)),
        of_blocks=_by_block(in_blocks, of_each, bins, confidence - right),
        bin_examples=np.bincount(bins, minlength=BINS).astype(np.float64),
        bin_confidence=np.bincount(bins, weights=confidence, minlength=BINS).astype(np.float64),
        bin_correct=np.bincount(bins, weights=right, minlength=BINS).astype(np.float64),
        labelled=np.bincount(labels, minlength=classes),
        predicted=np.bincount(best, minlength=classes),
        hits=np.bincount(labels[right], minlength=classes),
        confusion=_confusion(labels, best, classes),
    )


def _brier(log_probabilities: NDArray[Any], labels: Index) -> Float64:
    """The Brier score of each row: [N] float64."""
    squares = np.empty(len(labels))
    size = max(1, CHUNK_VALUES // log_probabilities.shape[1])
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        p = np.exp(log_probabilities[part].astype(np.float64))
        squares[part] = np.square(p).sum(axis=1) - 2 * p[np.arange(len(p)), labels[part]] + 1
    return squares


def _by_block(blocks: Blocks, of_each: Float64, bins: Index, gaps: Float64) -> Float64:
    """Sums over each block [B, COLUMNS] of values [N, GAPS], and of `gaps` [N] by bin [N]."""
    found = np.empty((blocks.number, COLUMNS))
    for column in range(GAPS):
        found[:, column] = np.bincount(blocks.of, weights=of_each[:, column], minlength=blocks.number)
    places = blocks.of * BINS + bins
    found[:, GAPS:] = np.bincount(places, weights=gaps, minlength=blocks.number * BINS).reshape(-1, BINS)
    return found


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
    order = by_length(x, np.arange(len(x)), collator.tokens)
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
    place = device(how.on)
    predictor = predictor_of(model).to(place)
    if predictor.module is not None:
        predictor.module.eval()
    size = how.micro_batch or micro_batch(values_of(x), embedded(x), place.type)
    every = np.arange(len(x)) if order is None else order
    for start in range(0, len(x), size):
        batch = collator(x, every[start : start + size])
        if start == 0 and computed_in(place, how.precision) == "bfloat16":
            predictor.prepare(batch, place, how.precision)  # logits keep their digits, as those of the teachers
        yield predictor(batch.to(place), how.precision).logits
