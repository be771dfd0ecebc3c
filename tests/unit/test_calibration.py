"""The interval of the calibration error holds the true one as often as it says, where the bootstrap's never does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.evaluation import bootstrap, calibration, metrics
from workers.evaluation.metrics import BINS, Blocks

Float64 = NDArray[np.float64]


class Case(NamedTuple):
    """Predictions whose logits are `sharper` times those of the true probabilities, which spread by `spread`.

    group: examples that share their difficulty; 1: none.
    """

    examples: int
    classes: int
    spread: float
    sharper: float
    group: int = 1


CASES = {
    "calibrated": Case(500, 10, 3.0, 1.0),
    "nearly": Case(500, 10, 3.0, 1.05),
    "over-confident": Case(500, 10, 3.0, 1.3),
    "many classes": Case(1000, 100, 2.0, 1.1),
    "larger": Case(5000, 10, 3.0, 1.1),
    "under-confident": Case(1000, 3, 2.0, 0.7),
    "groups": Case(1200, 10, 3.0, 1.3, group=20),
}


def drawn(case: Case, draw: np.random.Generator) -> tuple[Float64, Float64, NDArray[np.int64]]:
    """Log-probabilities [N, K], true probabilities [N, K] and groups [N]."""
    groups = np.arange(case.examples) // case.group
    shared = draw.normal(0.0, 0.5, groups.max() + 1)[groups] if case.group > 1 else np.zeros(case.examples)
    logits = case.spread * np.exp(shared)[:, None] * draw.standard_normal((case.examples, case.classes))
    log_q, log_p = (_log_softmax(scale * logits) for scale in (case.sharper, 1.0))
    return log_q, np.exp(log_p), groups


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Float64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def truth(case: Case) -> float:
    """The calibration error of infinitely many examples."""
    draw, gaps, times = np.random.default_rng(99), np.zeros(BINS), 200
    many = case._replace(examples=20_000)
    for _ in range(times):
        log_q, p, _ = drawn(many, draw)
        best = log_q.argmax(axis=1)
        rows = np.arange(len(best))
        confidence = np.exp(log_q[rows, best])
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        gaps += np.bincount(bins, confidence - p[rows, best], BINS)
    return float(np.abs(gaps).sum() / (times * many.examples))


def coverage(case: Case, times: int) -> float:
    true, draw, held = truth(case), np.random.default_rng(0), 0
    for seed in range(times):
        log_q, p, groups = drawn(case, draw)
        labels = (p.cumsum(axis=1) > draw.random((len(p), 1))).argmax(axis=1)
        sums = metrics.measure(log_q, labels, Blocks(groups, int(groups.max()) + 1))
        found = calibration.interval(sums.of_blocks, seed=seed)
        assert found is not None
        held += found.low <= true <= found.high
    return held / times


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_interval_holds_the_truth_19_times_in_20(name: str) -> None:
    assert 0.93 <= coverage(CASES[name], 1000) <= (0.99 if name == "calibrated" else 0.975)


def test_a_calibrated_network_may_have_no_error_at_all() -> None:
    log_q, p, _ = drawn(CASES["calibrated"], np.random.default_rng(1))
    labels = (p.cumsum(axis=1) > np.random.default_rng(2).random((len(p), 1))).argmax(axis=1)
    sums = metrics.measure(log_q, labels, Blocks(np.arange(500), 500))
    found = calibration.interval(sums.of_blocks)
    assert found is not None and found.low == 0.0 and sums.ece > 0.03  # noise alone


def test_a_large_error_is_bounded_from_both_sides() -> None:
    """10,000 predictions of confidence 0.9, of which 80% are right: 0.1, known to 0.004."""
    right = np.arange(10_000) % 5 > 0
    log_q = np.log(np.where(np.eye(2, dtype=bool)[np.zeros(10_000, int)], 0.9, 0.1))
    sums = metrics.measure(log_q, np.where(right, 0, 1), Blocks(np.arange(10_000), 10_000))
    found = calibration.interval(sums.of_blocks)
    assert found is not None and found.error == pytest.approx(0.004, rel=0.1)
    assert (found.low, found.high) == pytest.approx((0.1 - 1.96 * 0.004, 0.1 + 1.96 * 0.004), abs=5e-4)


def test_too_little_for_an_interval() -> None:
    sums = metrics.measure(np.log(np.full((3, 2), 0.5)), np.zeros(3, dtype=np.int64))
    assert calibration.interval(sums.of_blocks) is None  # one block
    certain = metrics.measure(np.array([[0.0, -np.inf]] * 3), np.zeros(3, dtype=np.int64), Blocks(np.arange(3), 3))
    found = calibration.interval(certain.of_blocks)
    assert found is not None and found.bounds == pytest.approx((0.0, bootstrap.unseen(3)))


def test_examples_that_all_say_the_same_are_not_certain() -> None:
    """Ten predictions of confidence 0.9, all right."""
    log_q = np.log(np.array([[0.9, 0.1]] * 10))
    sums = metrics.measure(log_q, np.zeros(10, dtype=np.int64), Blocks(np.arange(10), 10))
    found, unseen = calibration.interval(sums.of_blocks), bootstrap.unseen(10)
    assert found is not None and sums.ece == pytest.approx(0.1)
    assert found.bounds == pytest.approx((0.0, 0.1 * (1 - unseen) + unseen))
