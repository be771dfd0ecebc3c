"""Confidence intervals of figures of one test set, by the paired bootstrap over blocks of test examples.

A block holds examples that are drawn together: one example, or those of a group (an utterance, a document, a user).
Each system has sums over each block. All figures of a run, and their differences, are computed from the same resamples
of blocks, so that differences are paired. The intervals are BCa (Efron 1987), expanded: the nominal level is that of
Student's t with as many degrees of freedom (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section
4.3). Of few groups they are studentized instead (Efron and Tibshirani 1993, section 12.5), since BCa is too narrow
there: with 20 groups of unequal accuracy, 92% of its intervals hold the truth, and 95% of the studentized ones.

Resamples of blocks that all say the same do not vary, though other blocks may exist. There an interval reaches as far
as a share of other blocks could move the figure that, at this level, may exist unseen (`unseen`). Resamples of few
blocks in which two systems differ vary too little: three examples that speak for the same system would resolve it. So
a difference is resolved only where it is no chance by its signs, too (`chance`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Float64, Index
from workers.hashing import mixed

LEVEL = 0.95
"""Probability that an interval holds the true value, unless a caller asks for another."""
RESAMPLES = 4999
BLOCKS = 2048
"""Most blocks: more examples or groups than these are joined at random. Sums of random blocks have the same spread."""
FEW = 100
"""Blocks below which intervals are studentized."""
STEP = 1e-4
"""Of the numerical derivative of a figure by the weight of a block."""
MOST_DEGENERATE = 0.002
"""Share of resamples without spread up to which studentized intervals are computed."""
SAME = 1e-12
"""Spread of a figure, by its size, up to which its resamples are the same but for rounding."""
BATCH_VALUES = 2**23
"""Resampled blocks that are held at once."""
POWER = 0.8
"""Probability that a test set of the size in `needed` resolves a difference of the measured size."""

Figures = Callable[[Float64], Float64]
"""Sums over examples [..., C] -> figures [k, ...]."""


@dataclass(frozen=True)
class Interval:
    """An interval, of 95% unless another level was asked for, and the standard error of the figure."""

    low: float
    high: float
    error: float

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0.0 <= self.high


def bounds_of(interval: Interval | None) -> tuple[float, float] | None:
    """The bounds of an interval, where a figure has one."""
    return None if interval is None else interval.bounds


def blocks_of(groups: Index) -> Index:
    """The block of each example or position: [P] int64 in [0, `BLOCKS`).

    groups: [P], of each a number >= 0 of what it is drawn together with. Up to `BLOCKS` groups are a block each.
    """
    if len(groups) == 0 or int(groups.max()) < BLOCKS:
        return groups.astype(np.int64)
    found: Index = (mixed(groups.astype(np.uint64)) % np.uint64(BLOCKS)).astype(np.int64)
    return found


def units(examples: Float64) -> int:
    """How many independent units blocks hold. examples: [B], of each block.

    These are the examples themselves where the blocks are those of single ones (`blocks_of`), joined at random or not,
    and else the blocks, of which each is a group; of more groups than `BLOCKS` that is too few.
    """
    count = round(float(examples.sum()))
    if count > BLOCKS and np.array_equal(_of_singles(count)[: len(examples)], examples):
        return count
    return int((examples > 0).sum())


@lru_cache(maxsize=4)
def _of_singles(count: int) -> Float64:
    """How many of so many single examples, more than `BLOCKS`, are in each block: [`BLOCKS`] float64."""
    found = np.zeros(BLOCKS)
    for start in range(0, count, BATCH_VALUES):
        found += np.bincount(blocks_of(np.arange(start, min(start + BATCH_VALUES, count))), minlength=BLOCKS)
    return found


def intervals(
    of_blocks: Float64,
    figures: Figures,
    *,
    possible: Float64 | None = None,
    units: int | None = None,
    grouped: bool = False,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Interval | None]:
    """The interval of each figure.

    of_blocks: [B, C], sums over each block; a block whose sums are all 0 is left out. figures: computes k figures of
    such sums. possible: [E, C], sums of the blocks that move the figures furthest, for figures that do not vary among
    the blocks; None: these have no interval. units: independent units that the blocks hold; None: as many as blocks.
    grouped: whether blocks are groups of several examples, of which few are studentized. level: probability that an
    interval holds the true value. A figure may be infinite in some resamples. Returns None for a figure without an
    interval: where blocks are too few, where it is undefined in some resamples, such as a share of nothing, or where an
    end is infinite.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    used = of_blocks[of_blocks.any(axis=1)]
    blocks = len(used)
    found = figures(used.sum(axis=0))
    if blocks < 2:
        return [None] * len(found)

    def statistic(drawn: NDArray[Any], axis: int = -1) -> Float64:
        return figures(_counts(drawn, blocks) @ used)

    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # `_interval` handles it
        drawn = bootstrap(
            (np.arange(blocks),),
            statistic,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, BATCH_VALUES // blocks),
            confidence_level=expanded(level, blocks),
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    several = np.atleast_2d(drawn.bootstrap_distribution)
    bounds = np.stack([np.atleast_1d(drawn.confidence_interval.low), np.atleast_1d(drawn.confidence_interval.high)])
    if grouped and blocks < FEW:
        studentized = _studentized(used, figures, seed, level)
        bounds = np.where(np.isfinite(studentized), studentized, bounds)
    same = _of_same(used.mean(axis=0), found, figures, possible, (units or blocks, level))
    each = zip(several, bounds.T, found, same, strict=True)
    return [
        _interval(values, float(low), float(high), float(figure), of_same)
        for values, (low, high), figure, of_same in each
    ]


def unseen(units: int, level: float = LEVEL) -> float:
    """The largest share of units of a kind that may exist where none of so many is (Wilson 1927)."""
    squared = _quantile(level) ** 2
    return squared / (units + squared)


def _of_same(
    mean: Float64, found: Float64, figures: Figures, possible: Float64 | None, sample: tuple[int, float]
) -> list[Interval | None]:
    """The interval of each figure if it does not vary: what it would be with some of the possible blocks.

    mean: sums [C] of an average block. sample: number of independent units, and the level.
    """
    if possible is None:
        return [None] * len(found)
    share, quantile = unseen(*sample), _quantile(sample[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.stack([figures((1 - share) * mean + share * each) for each in (mean, *possible)])
    bounds = zip(moved.min(axis=0).tolist(), moved.max(axis=0).tolist(), found.tolist(), strict=True)
    return [
        Interval(low, high, max(figure - low, high - figure) / quantile) if math.isfinite(high - low) else None
        for low, high, figure in bounds
    ]


def _quantile(level: float) -> float:
    """Standard errors from the middle of a normal distribution that hold a share of `level` of it, on both sides."""
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2))


def _studentized(used: Float64, figures: Figures, seed: int, level: float) -> Float64:
    """Lower and upper bounds [2, k] of the figures by the distribution of (resampled - figure) / standard error.

    NaN where too many resamples have no spread.
    """
    blocks = len(used)
    ones = np.ones((1, blocks))
    whole, error = figures(used.sum(axis=0)[None])[:, 0], _errors(ones, used, figures)[:, 0]
    draw, found = np.random.default_rng([seed, 1]), []
    for start in range(0, RESAMPLES, FEW):
        size = min(FEW, RESAMPLES - start)
        weights = draw.multinomial(blocks, np.full(blocks, 1 / blocks), size).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append((figures(weights @ used) - whole[:, None]) / _errors(weights, used, figures))
    ratios = np.concatenate(found, axis=1)
    wrong = ~np.isfinite(ratios)
    ratios[wrong] = 0.0
    low, high = np.quantile(ratios, [0.5 - level / 2, 0.5 + level / 2], axis=1)
    bounds: Float64 = np.stack([whole - high * error, whole - low * error])
    return np.where(wrong.mean(axis=1) <= MOST_DEGENERATE, bounds, np.nan)


def _errors(weights: Float64, used: Float64, figures: Figures) -> Float64:
    """Standard errors [k, R] of figures of weighted blocks, linearised. weights: [R, B]."""
    sums, blocks = weights @ used, len(used)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = figures(sums[:, None, :] + STEP * used)  # [k, R, B]
        influence = (moved - figures(sums)[:, :, None]) / STEP
    found: Float64 = np.sqrt(blocks / (blocks - 1) * (weights * influence**2).sum(axis=2))
    return found


def _interval(resampled: Float64, low: float, high: float, figure: float, of_same: Interval | None) -> Interval | None:
    if np.isnan(resampled).any() or not math.isfinite(figure):
        return None
    finite = bool(np.isfinite(resampled).all())
    if finite and np.ptp(resampled) <= SAME * max(1.0, abs(figure)):  # BCa is undefined where nothing varies
        return of_same
    if not (math.isfinite(low) and math.isfinite(high)):  # of two blocks no percentile is an end
        return None
    return Interval(low, high, float(resampled.std(ddof=1)) if finite else math.inf)


def _counts(drawn: NDArray[Any], blocks: int) -> Float64:
    """How often each block is drawn: [..., B] float64. drawn: [..., n] numbers of blocks."""
    flat = drawn.reshape(-1, drawn.shape[-1]).astype(np.int64)
    places = flat + blocks * np.arange(len(flat))[:, None]
    counts = np.bincount(places.ravel(), minlength=blocks * len(flat)).astype(np.float64)
    return counts.reshape(*drawn.shape[:-1], blocks)


def expanded(level: float, blocks: int) -> float:
    """The nominal level whose percentiles of the bootstrap are an interval of `level`, for so many blocks."""
    from scipy.stats import norm, t

    quantile = t.ppf(0.5 + level / 2, blocks - 1) * math.sqrt(blocks / (blocks - 1))
    return float(1 - 2 * norm.sf(quantile))


def chance(gaps: Float64, seed: int = 0) -> Float64:
    """How probable a gap between two systems is that is at least as large, if they are equally good: [D] float64.

    gaps: [B, D], of D pairs, what the first has more than the second in each block. If both are equally good, the gap
    of a block might as well have the other sign. A gap of the same size counts as half (mid-p; Fagerland, Lydersen and
    Laake 2013), so that of single examples this is McNemar's mid-p test.
    """
    used = gaps[gaps.any(axis=1)]
    if not len(used):
        return np.ones(gaps.shape[1])
    whole, draw = np.abs(used.sum(axis=0)), np.random.default_rng([seed, 2])
    larger, size = np.zeros(gaps.shape[1]), max(1, BATCH_VALUES // len(used))
    for start in range(0, RESAMPLES, size):
        signs = 2.0 * draw.integers(0, 2, (min(size, RESAMPLES - start), len(used)), np.int8) - 1.0
        found = np.abs(signs @ used)
        larger += (found > whole).sum(axis=0) + 0.5 * (found == whole).sum(axis=0)
    return larger / RESAMPLES


def of_share(successes: float, trials: float) -> Interval:
    """The interval of a proportion of independent trials (Wilson 1927), of some width even where all succeed."""
    from scipy.stats import binomtest

    share = successes / trials
    found = binomtest(round(successes), round(trials)).proportion_ci(LEVEL, "wilson")
    return Interval(float(found.low), float(found.high), math.sqrt(share * (1 - share) / trials))


def of_ratio(sums: Float64, counts: Float64, blocks: Index | None = None) -> Interval | None:
    """The interval of sum(sums) / sum(counts), as of errors a word, over units that are drawn with both.

    sums, counts: [U]. blocks: [U], of each unit; None: each is drawn by itself. Returns None as `intervals` does.
    """
    of = blocks_of(np.arange(len(sums))) if blocks is None else blocks
    of_blocks = np.stack([np.bincount(of, each).astype(np.float64) for each in (sums, counts)], axis=1)
    (found,) = intervals(of_blocks, lambda drawn: (drawn[..., 0] / drawn[..., 1])[None], grouped=True)
    return found


def needed(difference: float, interval: Interval, examples: int) -> int | None:
    """How many test examples would resolve a difference of this size, with probability `POWER`.

    interval: of the difference, with `examples`. Of few blocks it reaches further towards 0 than the standard error
    tells, and then that end counts, so that more examples are needed than those which did not resolve it. None for a
    difference of 0, which no number resolves.
    """
    from scipy.stats import norm

    if difference == 0:
        return None
    reaches = difference - interval.low if difference > 0 else interval.high - difference
    error = max(interval.error, reaches / _quantile(LEVEL))
    quantiles = _quantile(LEVEL) + float(norm.ppf(POWER))
    return math.ceil(examples * (quantiles * error / difference) ** 2)
