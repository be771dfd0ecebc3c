"""Intervals of a run's figures, and of the differences that its report speaks of, all from the same resamples.

Pure: the inputs are sums of each system over blocks of test examples (`workers.evaluation.metrics.Sums`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.data.arrays import Float64
from workers.evaluation import bootstrap, calibration
from workers.evaluation.bootstrap import Interval
from workers.evaluation.metrics import BRIER, COLUMNS, CORRECT, EXAMPLES, FIGURES, NLL, figures

Pair = tuple[str, str]
ACCURACY = FIGURES.index("accuracy")
RESAMPLED = tuple(name for name in FIGURES if name != "ece")
"""Figures whose intervals the bootstrap gives; the calibration error has its own (`calibration`)."""


@dataclass(frozen=True)
class Difference:
    """By how much one system is more accurate than another on the same test examples.

    interval: None where the test set has too few examples or groups for one. needed: test examples that would resolve
    a difference of this size, with a probability of 80%; None where that is 0, or has no interval.
    """

    of: str
    over: str
    accuracy: float
    interval: Interval | None
    needed: int | None

    @property
    def resolved(self) -> bool:
        return self.interval is not None and not self.interval.holds_zero


@dataclass(frozen=True)
class Estimates:
    """intervals: of each system's `FIGURES`, by its name. gain: of the share of the ensemble's gain that reached the
    student; None where the ensemble has no gain over the baseline that is resolved, so that a share of it says nothing,
    or where the gain is so nearly none that its share has no bound. It holds 0 where the student's own gain over the
    baseline is not resolved."""

    intervals: Mapping[str, Mapping[str, Interval | None]]
    differences: Sequence[Difference]
    gain: Interval | None


def estimate(of_blocks: Mapping[str, Float64], pairs: Sequence[Pair]) -> Estimates:
    """The intervals of a run.

    of_blocks: [B, COLUMNS] of each system, of the same blocks. pairs: systems whose accuracies are compared; the first
    of each minus the second.
    """
    names = list(of_blocks)
    joint = np.concatenate([of_blocks[name] for name in names], axis=1)
    number = {name: k for k, name in enumerate(names)}

    def of_sums(sums: Float64) -> Float64:
        each = figures(sums.reshape(*sums.shape[:-1], len(names), COLUMNS))  # [4, ..., S]
        accuracy = {name: each[ACCURACY, ..., k] for name, k in number.items()}
        several = [each[FIGURES.index(name), ..., k] for k in range(len(names)) for name in RESAMPLED]
        return np.stack([*several, *(accuracy[of] - accuracy[over] for of, over in pairs), _gain(accuracy)])

    values, found = of_sums(joint.sum(axis=0)), _intervals(list(of_blocks.values()), of_sums)
    of_systems = {
        name: dict(zip(RESAMPLED, found[k * len(RESAMPLED) : (k + 1) * len(RESAMPLED)], strict=True))
        | {"ece": calibration.interval(of_blocks[name])}
        for name, k in number.items()
    }
    for name, of_system in of_systems.items():
        of_system["accuracy"] = _of_accuracy(of_blocks[name], of_system["accuracy"])
    first = len(names) * len(RESAMPLED)
    gaps = np.stack([of_blocks[of][:, CORRECT] - of_blocks[over][:, CORRECT] for of, over in pairs], axis=1)
    examples = round(float(of_blocks[names[0]][:, EXAMPLES].sum()))
    differences = [
        _difference(pair, float(value), interval, examples)
        for pair, value, interval in zip(pairs, values[first:-1], _of_gaps(gaps, found[first:-1]), strict=True)
    ]
    of_pair = {(each.of, each.over): each for each in differences}
    own, reached = of_pair.get(("ensemble", "baseline")), of_pair.get(("student", "baseline"))
    gain = found[-1] if own is not None and own.resolved and own.accuracy > 0 else None
    if gain is not None and reached is not None and not reached.resolved:
        gain = _with_zero(gain)
    return Estimates(of_systems, differences, gain)


@dataclass(frozen=True, kw_only=True)
class MemberEstimates:
    """What one member is worth. adds: accuracy with it over that without, in the order of the best k members, of which
    `with_it` is the accuracy so far; for the first its own. lost: what the whole ensemble loses without it."""

    with_it: float
    with_it_interval: Interval | None
    nll: float
    ece: float
    adds: float
    adds_interval: Interval | None
    lost: float
    lost_interval: Interval | None


def members(order: Sequence[int], best: Sequence[Float64], without: Sequence[Float64]) -> list[MemberEstimates]:
    """The worth of each member, in this order.

    best: sums [B, COLUMNS] of the first 1, 2, ... M members of the order. without: of the ensembles that lack one
    member, by its number.
    """
    count = len(order)
    several = [*best, *(without[k] for k in order)]

    def of_sums(sums: Float64) -> Float64:
        each = figures(sums.reshape(*sums.shape[:-1], 2 * count, COLUMNS))[ACCURACY]  # [..., 2M]
        of_each = np.moveaxis(each, -1, 0)
        prefixes, lacking = of_each[:count], of_each[count:]
        adds = np.concatenate([prefixes[:1], np.diff(prefixes, axis=0)])
        return np.concatenate([prefixes, adds, prefixes[-1:] - lacking])

    values, found = of_sums(np.concatenate(several, axis=1).sum(axis=0)), _intervals(several, of_sums)
    right = [sums[:, CORRECT] for sums in several]
    adds = _of_gaps(np.stack([right[k] - right[k - 1] for k in range(1, count)], axis=1), found[count + 1 : 2 * count])
    lost = _of_gaps(np.stack([right[count - 1] - each for each in right[count:]], axis=1), found[2 * count :])
    whole = [dict(zip(FIGURES, figures(sums.sum(axis=0)), strict=True)) for sums in best]
    of_best = [_of_accuracy(sums, interval) for sums, interval in zip(best, found, strict=False)]
    return [
        MemberEstimates(
            with_it=float(values[k]),
            with_it_interval=of_best[k],
            nll=float(whole[k]["nll"]),
            ece=float(whole[k]["ece"]),
            adds=float(values[count + k]),
            adds_interval=adds[k - 1] if k else of_best[0],
            lost=float(values[2 * count + k]),
            lost_interval=lost[k],
        )
        for k in range(count)
    ]


def _intervals(
    of_blocks: Sequence[Float64], figures: bootstrap.Figures, level: float = bootstrap.LEVEL
) -> list[Interval | None]:
    """`bootstrap.intervals` of figures of several systems, with sums [B, COLUMNS] of each on the same blocks."""
    joint, first = np.concatenate(of_blocks, axis=1), of_blocks[0]
    possible, units = _possible(first, len(of_blocks)), bootstrap.units(first[:, EXAMPLES])
    return bootstrap.intervals(
        joint, figures, possible=possible, units=units, grouped=not _is_of_singles(first), level=level
    )


def _possible(of_blocks: Float64, systems: int) -> Float64:
    """Sums [2S + 2, S * COLUMNS] of blocks that move figures of up to three of S systems furthest, each of as many
    examples as an average block: all systems are right, none, one alone, or all but one."""
    alone = np.eye(systems)
    right = np.concatenate([np.zeros((1, systems)), np.ones((1, systems)), alone, 1 - alone])
    found = np.zeros((len(right), systems, COLUMNS))
    found[..., EXAMPLES], found[..., CORRECT] = 1.0, right
    found[..., BRIER], found[..., NLL] = 2 * (1 - right), np.where(right > 0, 0.0, math.inf)
    examples: float = of_blocks[of_blocks[:, EXAMPLES] > 0, EXAMPLES].mean()
    return examples * found.reshape(len(right), -1)


def _is_of_singles(of_blocks: Float64) -> bool:
    """Whether blocks are single examples, or random ones of a large test set, and not groups of examples."""
    examples = of_blocks[:, EXAMPLES]
    return bootstrap.units(examples) == round(float(examples.sum()))


def _of_accuracy(of_blocks: Float64, found: Interval | None) -> Interval | None:
    """The interval of an accuracy: where blocks are of single examples, of these as independent trials."""
    if found is None or not _is_of_singles(of_blocks):
        return found
    return bootstrap.of_share(*of_blocks[:, [CORRECT, EXAMPLES]].sum(axis=0).tolist())


def _of_gaps(gaps: Float64, found: Sequence[Interval | None]) -> list[Interval | None]:
    """The intervals of differences in accuracy, which hold 0 where the signs of `gaps` [B, D] may be chance."""
    may_be_chance = bootstrap.chance(gaps) > 1 - bootstrap.LEVEL
    return [
        _with_zero(each) if each is not None and unsure else each
        for each, unsure in zip(found, may_be_chance.tolist(), strict=True)
    ]


def _with_zero(found: Interval) -> Interval:
    return replace(found, low=min(found.low, 0.0), high=max(found.high, 0.0))


def _gain(accuracy: Mapping[str, Float64]) -> Float64:
    """The share of the ensemble's gain that reached the student; infinite without a gain, as if it were hardly any."""
    baseline, ensemble, student = (accuracy[name] for name in ("baseline", "ensemble", "student"))
    gain, kept = np.asarray(ensemble - baseline), np.asarray(student - baseline)
    found = np.where(kept >= 0, math.inf, -math.inf)
    np.divide(kept, gain, out=found, where=gain > 0)
    return found


def difference(one: Float64, other: Float64, names: Pair = ("student", "student")) -> Difference:
    """The accuracy of one system over another's, on the same test examples. one, other: [B, COLUMNS]. names: of both;
    those of students of two runs."""
    joint = np.concatenate([one, other], axis=1)

    def of_sums(sums: Float64) -> Float64:
        accuracy = figures(sums.reshape(*sums.shape[:-1], 2, COLUMNS))[ACCURACY]
        return np.stack([accuracy[..., 0] - accuracy[..., 1]])

    (value,), found = of_sums(joint.sum(axis=0)), _intervals([one, other], of_sums)
    (interval,) = _of_gaps(one[:, [CORRECT]] - other[:, [CORRECT]], found)
    return _difference(names, float(value), interval, round(float(one[:, EXAMPLES].sum())))


def accuracy(of: Float64) -> tuple[float, Interval | None]:
    """The accuracy of a system, and its interval. of: [B, COLUMNS]."""
    (found,) = _intervals([of], lambda sums: figures(sums)[ACCURACY][None])
    return float(figures(of.sum(axis=0))[ACCURACY]), _of_accuracy(of, found)


def curve(examples: Float64, right: Float64) -> list[Interval | None]:
    """The intervals of the accuracies of 1, 2, ... M members, each the mean over choices of them; the last is of all.

    examples: [B], of each block. right: [B, M], correct ones, the mean over the choices.
    """
    joint = np.column_stack([examples, right])
    average, members = examples[examples > 0].mean(), right.shape[1]
    possible = average * np.stack([np.append(1.0, np.full(members, share)) for share in (0.0, 1.0)])
    *means, last = bootstrap.intervals(
        joint,
        lambda sums: np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0),
        possible=possible,
        units=bootstrap.units(examples),
        grouped=not _is_of_singles(joint),
    )
    return [*means, _of_accuracy(joint[:, [EXAMPLES, members]], last)]


def _difference(pair: Pair, value: float, interval: Interval | None, examples: int) -> Difference:
    needed = None if interval is None else bootstrap.needed(value, interval, examples)
    return Difference(*pair, value, interval, needed)


def share_of(one: Float64, other: Float64) -> float:
    """The accuracy of one system as a share of another's; NaN where that is never right. one, other: [B, COLUMNS]."""
    accuracy = [figures(each.sum(axis=0))[ACCURACY] for each in (one, other)]
    return float(accuracy[0] / accuracy[1]) if accuracy[1] > 0 else math.nan


def share(one: Float64, other: Float64, level: float = bootstrap.LEVEL) -> tuple[float, Interval | None]:
    """`share_of` two systems on the same test examples, and its paired interval of `level`; None for few blocks."""

    def of_sums(sums: Float64) -> Float64:
        accuracy = figures(sums.reshape(*sums.shape[:-1], 2, COLUMNS))[ACCURACY]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([accuracy[..., 0] / accuracy[..., 1]])

    (interval,) = _intervals([one, other], of_sums, level)
    return share_of(one, other), interval
