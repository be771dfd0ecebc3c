"""Intervals hold the true value as often as they say: shares, differences, few groups, skewed values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.evaluation import bootstrap

Float64 = NDArray[np.float64]
Draw = Callable[[np.random.Generator], Float64]


def share(sums: Float64) -> Float64:
    found: Float64 = (sums[..., 1] / sums[..., 0])[None]
    return found


def single(p: float, n: int) -> Draw:
    return lambda draw: np.stack([np.ones(n), draw.random(n) < p], axis=1).astype(np.float64)


def difference(n: int) -> Draw:
    """One system right where the other is wrong in 5% of the examples, and the reverse in 3%."""
    return lambda draw: np.stack([np.ones(n), draw.choice([1.0, -1.0, 0.0], n, p=[0.05, 0.03, 0.92])], axis=1)


def grouped(groups: int) -> Draw:
    """Groups of 5 to 60 examples, each with an accuracy of its own, 0.9 on average."""

    def draw_(draw: np.random.Generator) -> Float64:
        size = draw.integers(5, 60, groups)
        return np.stack([size, draw.binomial(size, draw.beta(9, 1, groups))], axis=1).astype(np.float64)

    return draw_


def skewed(n: int) -> Draw:
    return lambda draw: np.stack([np.ones(n), draw.lognormal(-1.0, 0.8, n)], axis=1)


TRUTHS: dict[str, tuple[Draw, float, bool]] = {
    "a share": (single(0.9, 300), 0.9, False),
    "a difference": (difference(400), 0.02, False),
    "twenty groups": (grouped(20), 0.9, True),
    "many groups": (grouped(150), 0.9, True),
    "skewed": (skewed(400), float(np.exp(-1.0 + 0.32)), False),
}


def coverage(draw: Draw, truth: float, is_grouped: bool, times: int) -> float:
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(times):
        (found,) = bootstrap.intervals(draw(generator), share, grouped=is_grouped, seed=seed)
        assert found is not None
        held += found.low <= truth <= found.high
    return held / times


@pytest.mark.parametrize("case", TRUTHS)
def test_an_interval_holds_the_truth_19_times_in_20(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 999)
    assert 0.90 <= coverage(*TRUTHS[case], 200) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("case", TRUTHS)
def test_the_same_in_a_thousand_draws(case: str) -> None:
    assert 0.93 <= coverage(*TRUTHS[case], 1000) <= 0.97


def test_a_figure_that_does_not_vary_is_as_sure_as_a_proportion_of_all() -> None:
    """By the bound of Wilson: what is missing among n blocks is missed so in one of twenty samples, or hardly more."""
    for blocks in (2, 8, 100):
        right, mixed = np.ones((blocks, 2)), np.array([[1.0, 1.0], [1.0, 0.0]])
        (found,) = bootstrap.intervals(right, share, possible=mixed)
        expected = bootstrap.of_share(blocks, blocks)
        assert found is not None
        assert found.bounds == pytest.approx(expected.bounds)
        assert found.error == pytest.approx((1 - found.low) / 1.96, rel=1e-4)
        assert bootstrap.intervals(right, share) == [None], "without possible blocks"
    assert all((1 - bootstrap.unseen(blocks)) ** blocks <= 0.052 for blocks in range(6, 500))


@pytest.mark.parametrize("count", [1, 300, bootstrap.BLOCKS, bootstrap.BLOCKS + 1, 10_000])
def test_examples_that_are_joined_at_random_are_units_still(count: int) -> None:
    of_single, of_pairs = (np.bincount(bootstrap.blocks_of(np.arange(count) // size)) for size in (1, 2))
    assert bootstrap.units(of_single.astype(np.float64)) == count
    if count > 1:
        assert bootstrap.units(of_pairs.astype(np.float64)) == min(-(-count // 2), np.count_nonzero(of_pairs))


def test_a_figure_that_varies_by_rounding_alone_does_not_vary() -> None:
    parts = np.array([[1.0, 0.1], [3.0, 0.3], [7.0, 0.7]])
    assert bootstrap.intervals(parts, share) == [None]
