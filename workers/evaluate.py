"""Metrics of predictions, as sums and counts: parts of a data set add up to the whole's figures.

Works on probabilities at T = 1, so that members, an ensemble's mean and a student are measured alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.inputs import Index, Inputs, as_tensor, chunks

BINS = 15
"""Equal bins of confidence for the calibration error, as in Guo et al. 2017."""

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Sums:
    """What predictions come to: counts of examples and right ones, summed loss, and the same by confidence.

    bin_examples, bin_confidence, bin_correct: [BINS] float64.
    """

    examples: int
    correct: int
    nll: float
    bin_examples: NDArray[np.float64]
    bin_confidence: NDArray[np.float64]
    bin_correct: NDArray[np.float64]

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__annotations__))

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples

    @property
    def mean_nll(self) -> float:
        """Negative log-likelihood of the true label, nats an example."""
        return self.nll / self.examples

    @property
    def ece(self) -> float:
        """Expected calibration error: |confidence - accuracy|, averaged over the bins by their examples."""
        return float(np.abs(self.bin_confidence - self.bin_correct).sum() / self.examples)


def measure(probabilities: Probabilities, labels: Index) -> Sums:
    """probabilities: [N, K] float, rows summing to 1. labels: [N] int64 class ids."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return Sums(
        examples=len(labels),
        correct=int(right.sum()),
        nll=float(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).sum()),
        bin_examples=np.bincount(bins, minlength=BINS).astype(np.float64),
        bin_confidence=np.bincount(bins, weights=confidence, minlength=BINS).astype(np.float64),
        bin_correct=np.bincount(bins, weights=right, minlength=BINS).astype(np.float64),
    )


def device() -> torch.device:
    """CUDA where torch sees it, never because a scheduler declared a GPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def predict(module: nn.Module, x: Inputs, batch_size: int = 1024) -> Probabilities:
    """softmax(module(x)) at T = 1: [N, K] float32."""
    place = device()
    module = module.to(place).eval()
    found = [torch.softmax(module(as_tensor(rows).to(place)).float(), -1).cpu() for _, rows in chunks(x, batch_size)]
    return torch.cat(found).numpy()


def latency_ms(predictors: Sequence[Callable[[Tensor], Tensor]], example: Tensor, repeats: int) -> dict[str, float]:
    """Milliseconds to answer one example by all of `predictors`, one after another: 50th and 99th percentile.

    example: [1, ...], on the device of the predictors. Warmed up first; on a GPU the answer is waited for.
    """
    times = []
    with torch.no_grad():
        for attempt in range(repeats + repeats // 5 + 1):
            started = time.perf_counter()
            for predict_one in predictors:
                predict_one(example)
            if example.is_cuda:
                torch.cuda.synchronize()
            if attempt > repeats // 5:
                times.append((time.perf_counter() - started) * 1e3)
    p50, p99 = np.percentile(times, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}
