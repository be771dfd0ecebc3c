"""What an ensemble of K members would be worth, from two or three of them, before the others are trained.

The error of an ensemble of K equally good members is nearly a + b / K, since a mean of K predictions has 1 / K of the
variance of one (Lobacheva, Chirkova, Kodryan and Vetrov 2020, "On Power Laws in Deep Ensembles"). The error of one
network falls as a power of its training and of its size (Hestness et al. 2017). So a network that was trained twice as
long, or is twice as large, says what K times would do. The first law is a little cautious: in simulations it forecasts
90 to 95% of the gain.

Both are drawn many times: test examples by the bootstrap, and seeds by a normal distribution with the spread of the
members. So an interval holds both kinds of chance. Where members and ensemble are right for the same examples, neither
varies, though other examples may exist; then the gain of the ensemble is drawn from what these could make of it
(`workers.evaluation.bootstrap.unseen`). No forecast is below 0 or above 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workers.data.arrays import Float64
from workers.evaluation.bootstrap import LEVEL, SAME, units, unseen
from workers.evaluation.metrics import CORRECT, EXAMPLES

DRAWS = 4000
BATCH = 200
"""Draws whose weights are held at once."""
LEAST_ERROR = 1e-6


@dataclass(frozen=True)
class Estimate:
    """A figure, and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Single:
    """One network with more of something than a member has, measured. more: how many times as much. sums: [B, COLUMNS]
    over the same blocks."""

    more: float
    sums: Float64


@dataclass(frozen=True, kw_only=True)
class Rival:
    """What one network would do with as much of something as all members have together.

    more, measured: of the network that was trained. as_much: forecast for one with as much as all members. beats: the
    probability that the ensemble is more accurate than that one; where both are equally accurate, each is so by half.
    """

    more: float
    measured: Estimate
    as_much: Estimate
    beats: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Accuracies on held-out examples, measured and forecast.

    one: of one member, the mean. together: of the trained members. members: of `count` members; gain: over one. rivals:
    single networks, by what they have more of.
    """

    count: int
    trained: int
    examples: int
    one: Estimate
    together: Estimate
    members: Estimate
    gain: Estimate
    rivals: Mapping[str, Rival]


@dataclass(frozen=True)
class _Drawn:
    """Accuracies [1 + DRAWS, S] of members, their ensemble and others: first as measured, then drawn again. units:
    independent ones that they are of (`workers.evaluation.bootstrap.units`)."""

    accuracies: Float64
    members: int
    units: int
    random: np.random.Generator

    def noise(self, scale: float) -> Float64:
        """Of other seeds, [1 + DRAWS]; none in the measured figures."""
        spread = float(self.accuracies[0, : self.members].std(ddof=1))
        return np.concatenate([np.zeros(1), self.random.normal(0.0, scale * spread, DRAWS)])

    def law(self) -> tuple[Float64, Float64, Float64]:
        """The accuracy of one member, that of all together, and b of the law: [1 + DRAWS] each."""
        count = self.members
        one = _possible(self.accuracies[:, :count].mean(axis=1) + self.noise(1 / math.sqrt(count)))
        together = _possible(self.accuracies[:, count] + self.noise(1 / count))
        gain = together - one
        if np.ptp(gain) <= SAME:
            most = unseen(self.units)
            gain = gain + np.concatenate([np.zeros(1), self.random.uniform(-most, most, DRAWS)])
        return one, together, gain / (1 - 1 / count)


def _drawn(systems: Sequence[Float64], members: int, seed: int) -> _Drawn:
    """systems: sums of the members, of their ensemble, and of others."""
    held = units(systems[0][:, EXAMPLES])
    return _Drawn(_resampled(systems, seed), members, held, np.random.default_rng([seed, 2]))


def _possible(accuracies: Float64) -> Float64:
    return np.clip(accuracies, 0.0, 1.0)


def next_worth(singles: Sequence[Float64], together: Float64, seed: int = 0) -> Estimate:
    """What one more member would add in accuracy to the ensemble of these.

    singles: sums [B, COLUMNS] over blocks of held-out examples of each of m >= 2 members. together: of their ensemble.
    """
    count = len(singles)
    _, _, slope = _drawn([*singles, together], count, seed).law()
    return _estimate(slope * (1 / count - 1 / (count + 1)))


def forecast(
    singles: Sequence[Float64], together: Float64, rivals: Mapping[str, Single], count: int, seed: int = 0
) -> Forecast:
    """The prospects of an ensemble of `count` members.

    singles: sums [B, COLUMNS] over blocks of held-out examples of each of m >= 2 members. together: of their ensemble.
    rivals: single networks, by what they have more of.
    """
    trained = len(singles)
    drawn = _drawn([*singles, together, *(each.sums for each in rivals.values())], trained, seed)
    one, of_trained, slope = drawn.law()
    members = _possible(one + slope * (1 - 1 / count))

    def rival(number: int, more: float) -> Rival:
        measured = _possible(drawn.accuracies[:, trained + 1 + number] + drawn.noise(1.0))
        as_much = _as_much(one, measured, math.log(count, more))
        other = _possible(as_much + drawn.noise(1.0))
        beats = float((1 + np.sign(members - other)[1:]).mean() / 2)
        return Rival(more=more, measured=_estimate(measured), as_much=_estimate(as_much), beats=beats)

    return Forecast(
        count=count,
        trained=trained,
        examples=round(float(together[:, EXAMPLES].sum())),
        one=_estimate(one),
        together=_estimate(of_trained),
        members=_estimate(members),
        gain=_estimate(members - one),
        rivals={name: rival(number, each.more) for number, (name, each) in enumerate(rivals.items())},
    )


def _as_much(one: Float64, more: Float64, times: float) -> Float64:
    """The accuracy by the power law of the error after so many times the step from `one` to `more`; never below `one`.

    A step that made things worse is none.
    """
    error, less = (np.maximum(1 - each, LEAST_ERROR) for each in (one, more))
    return np.maximum(one, 1 - error * (less / error) ** times)


def _resampled(systems: Sequence[Float64], seed: int) -> Float64:
    """Accuracies of systems: as measured, then of resampled blocks: [1 + DRAWS, S]."""
    right, rows = (np.stack([of[:, column] for of in systems], axis=1) for column in (CORRECT, EXAMPLES))
    used = rows[:, 0] > 0
    right, rows, blocks = right[used], rows[used], int(used.sum())
    draw, found = np.random.default_rng([seed, 1]), [(right.sum(axis=0) / rows.sum(axis=0))[None]]
    for start in range(0, DRAWS, BATCH):
        weights = draw.multinomial(blocks, np.full(blocks, 1 / blocks), min(BATCH, DRAWS - start)).astype(np.float64)
        found.append((weights @ right) / (weights @ rows))
    return np.concatenate(found)


def _estimate(drawn: Float64) -> Estimate:
    """The measured figure, which is the first, and the interval of the others."""
    low, high = np.quantile(drawn[1:], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(float(drawn[0]), float(low), float(high))
