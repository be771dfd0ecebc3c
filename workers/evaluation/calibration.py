"""The interval of the expected calibration error (ECE).

The gap of a bin, confidence minus accuracy times the bin's share of the examples, is about normal around its true
value. The ECE adds the absolute gaps, so noise alone makes it too large: 0.05 for 500 predictions of a calibrated
network. Resampling adds the same noise once more, and intervals of the bootstrap then miss the truth almost always.

So the interval comes from a test for each possible value: those under which an ECE like the measured one is neither
in the lower nor in the upper 2.5% of what noise makes of it. A possible value has gaps in proportion to the expected
size of the true ones, under a normal prior of their ratio to the standard error, with its width integrated out
(empirical Bayes; Efron and Morris 1973). The interval begins at 0 where perfect calibration explains the figure.
"""

from __future__ import annotations

import numpy as np

from workers.data.arrays import Float64
from workers.evaluation.bootstrap import LEVEL, SAME, Interval, units, unseen
from workers.evaluation.metrics import EXAMPLES, GAPS

DRAWS = 4000
WIDTHS = np.concatenate([[0.0], np.geomspace(0.01, 1000.0, 60)])
"""Widths of the prior, in standard errors; of constant density."""
STEPS = 30
"""Bisections, which find a bound to 1e-9."""


def interval(of_blocks: Float64, *, seed: int = 0, level: float = LEVEL) -> Interval | None:
    """The interval of the ECE of infinitely many examples in the same bins; None for fewer than two blocks.

    of_blocks: [B, COLUMNS], sums over each block of test examples (`workers.evaluation.metrics.Sums`). It may lie below
    the ECE of these examples. Of a calibrated network it holds 0 more often than `level`, since it ends there.
    """
    used = of_blocks[of_blocks[:, EXAMPLES] > 0]
    if len(used) < 2:
        return None
    examples, gaps = used[:, EXAMPLES], used[:, GAPS:]
    mean = gaps.sum(axis=0) / examples.sum()
    influence = (gaps - examples[:, None] * mean) / examples.sum()  # of each block on the mean gaps
    noise = _noise(influence, np.random.default_rng(seed))
    pattern = _expected_size(mean, np.sqrt(len(used) / (len(used) - 1) * (influence**2).sum(axis=0)))
    measured = np.abs(mean).sum()
    if (np.ptp(gaps / examples[:, None], axis=0) <= SAME).all():
        return _of_same(float(measured), unseen(units(of_blocks[:, EXAMPLES]), level))
    pattern /= pattern.sum()

    def quantile(value: float, share: float) -> float:
        """Of the ECE that is measured where the true one is `value`."""
        return float(np.quantile(np.abs(value * pattern + noise).sum(axis=1), share))

    def bound(share: float) -> float:
        """The true value of whose measured ones this share is below the measured one."""
        if quantile(0.0, share) >= measured:
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if quantile(middle, share) < measured else (low, middle)
        return high

    error = np.abs(mean + noise).sum(axis=1).std(ddof=1)
    return Interval(bound(0.5 + level / 2), bound(0.5 - level / 2), float(error))


def _of_same(measured: float, share: float) -> Interval:
    """The interval where all blocks have the same gaps: what it would be with this share of others that may exist
    unseen, whose predictions are certain and wrong, or whose gaps make up for those of these."""
    low, high = max(0.0, (1 - share) * measured - share), (1 - share) * measured + share
    return Interval(low, high, share / 2)


def _noise(influence: Float64, draw: np.random.Generator) -> Float64:
    """Draws [`DRAWS`, bins] of the error of the mean gaps: Student's t with their covariance.

    influence: [B, bins].
    """
    degrees = len(influence) - 1
    covariance = influence.T @ influence * len(influence) / degrees
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = draw.standard_normal((DRAWS, len(values))) @ root.T
    scale: Float64 = np.sqrt(draw.chisquare(degrees, (DRAWS, 1)) / degrees)
    found: Float64 = normal / scale
    return found


def _expected_size(mean: Float64, error: Float64) -> Float64:
    """Root mean square of each bin's true gap, given the measured ones [bins] and their standard errors [bins]."""
    size = np.abs(mean)
    varies = error > 0
    ratio = mean[varies] / error[varies]
    wide = 1 + WIDTHS**2
    fit = -0.5 * (len(ratio) * np.log(wide) + (ratio**2).sum() / wide)
    weight = np.exp(fit - fit.max()) * np.gradient(WIDTHS)
    kept = WIDTHS**2 / wide  # of the measured ratio, by the posterior of each width
    squares = ((kept[:, None] * ratio) ** 2 + kept[:, None]) * weight[:, None] / weight.sum()
    size[varies] = np.sqrt(squares.sum(axis=0)) * error[varies]
    return size
