"""The ensemble as a mixture of its members: predictions for evaluation, by number of members, and fitted weights.

All functions work on log-probabilities in float64. Soft targets are averaged in fixed point (`workers.ensemble`).
Its steps of 10^-9 suffice for training, but a likelihood needs the logarithm of much smaller probabilities.
The members have a fixed order, so sums are the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers import mixture_weights
from workers.data.arrays import Float64, Index
from workers.ensemble import COMBINES, normalised
from workers.evaluation.metrics import BINS, Blocks, LogProbabilities, Sums, measure
from workers.specs.base import FactorySpec
from workers.specs.members import ExampleRule, ExampleWeights, SpecialistRule

CHUNK_VALUES = 2**18
"""Size of a chunk, members * rows * classes, so that its float64 arrays fit a cache."""
MemberWeights = Sequence[float] | ExampleRule
"""Numbers [M], scaled to sum to 1, or a rule for each example (`workers.mixture_weights`) at T = 1."""
_GAP = 1e-9
_MOST_STEPS = 200
_NEGLIGIBLE = 1e-8
_ROUNDING = 1e-14


def alike(rule: MemberWeights | None, chosen: Sequence[int]) -> MemberWeights:
    """What some members of an ensemble are combined by, where none has a larger weight than another.

    rule: of the whole ensemble. Specialists keep their classes.
    """
    return rule.among(chosen) if isinstance(rule, SpecialistRule) else [1.0] * len(chosen)


def log_mean(log_probabilities: Sequence[NDArray[Any]], weights: MemberWeights, combine: str) -> Float64:
    """The ensemble's prediction: log of sum_m w_m p_m, or the normalised sum_m w_m log p_m.

    log_probabilities: M arrays [N, K]. weights: members of weight 0 do not count. Returns log-probabilities [N, K]
    float64. A class has -inf where all members give it probability 0 (`arithmetic`) or one of them does
    (`geometric`). Where every class has a member that gives it 0, the geometric mean is -inf throughout. A rule is not
    called without rows.

    Raises: ValueError for wrong weights or an unknown `combine`.
    """
    if not len(log_probabilities[0]):
        return np.empty((0, log_probabilities[0].shape[1]))
    if isinstance(weights, SpecialistRule):
        return _of_specialists(weights, np.stack(list(log_probabilities), dtype=np.float64))
    shares = _shares(weights, combine, log_probabilities)
    held = [(p, w[:, None]) for p, w in zip(log_probabilities, shares, strict=True) if (w > 0).any()]
    with np.errstate(divide="ignore", invalid="ignore"):
        if combine == "arithmetic":
            return _log_sum_exp(np.stack([p.astype(np.float64) + np.log(w) for p, w in held]), axis=0)
        parts = [np.where(w > 0, np.multiply(p, w, dtype=np.float64), 0.0) for p, w in held]
    total: Float64 = np.sum(parts, axis=0)
    return total - _finite(_log_sum_exp(total, axis=1))[:, None]


def _of_specialists(rule: SpecialistRule, log_probabilities: Float64) -> Float64:
    """The log-probabilities [N, K] of generalists and specialists together, of theirs [M, N, K]."""
    answer: Float64 = mixture_weights.together(rule, torch.from_numpy(np.exp(log_probabilities))).numpy()
    with np.errstate(divide="ignore"):
        return np.log(answer)


def log_means(
    log_probabilities: Sequence[LogProbabilities], weights: MemberWeights, combine: str
) -> Iterator[tuple[slice, Float64]]:
    """`log_mean` by chunks of rows, each with its slice, so that memory grows neither with N nor with M."""
    for rows in _chunks(log_probabilities):
        yield rows, log_mean([p[rows] for p in log_probabilities], weights, combine)


def measure_mean(
    log_probabilities: Sequence[LogProbabilities],
    weights: MemberWeights,
    combine: str,
    labels: Index,
    blocks: Blocks | None = None,
) -> Sums:
    """`metrics.measure` of the ensemble's prediction. labels: [N] int64."""
    each = [
        measure(mean, labels[rows], None if blocks is None else blocks.at(rows))
        for rows, mean in log_means(log_probabilities, weights, combine)
    ]
    return sum(each[1:], start=each[0])


@dataclass(frozen=True)
class Point:
    """Accuracy, NLL in nats per example, and ECE of an ensemble of `members` members, the mean over choices of them.

    spread: standard deviation of the accuracy over the choices; None for a single one.
    """

    members: int
    accuracy: float
    nll: float
    ece: float
    spread: float | None


@dataclass(frozen=True)
class CurveSums:
    """Sums over predictions of every run of neighbours in the ring of M members.

    The first two axes are a run's length - 1 and its first member. right: [M, M, B] int32, correct predictions by block
    of rows. nll: [M, M] float64. gaps: [M, M, BINS] float64, confidence less correctness by bin of confidence. weighed:
    [M, M] bool, runs whose weight is above 0 for every example.
    """

    examples: int
    right: NDArray[np.int32]
    nll: Float64
    gaps: Float64
    weighed: NDArray[np.bool_]

    def __add__(self, other: CurveSums) -> CurveSums:
        weighed = self.weighed & other.weighed
        return CurveSums(
            self.examples + other.examples,
            self.right + other.right,
            self.nll + other.nll,
            self.gaps + other.gaps,
            weighed,
        )

    @property
    def points(self) -> list[Point]:
        """Accuracy and likelihood by number of members.

        A single choice of k members would mix the effect of k with that of the choice. So each point is the mean over
        all runs of k neighbours, where each member appears equally often. Runs of total weight 0 are left out.
        """
        found, of_runs = [], self.right.sum(axis=2)
        for k in range(len(of_runs)):
            counted = self._counted(k)
            right, nll = of_runs[k][counted] / self.examples, self.nll[k][counted] / self.examples
            ece = np.abs(self.gaps[k][counted]).sum(axis=1) / self.examples
            spread = float(right.std(ddof=1)) if len(right) > 1 else None
            found.append(Point(k + 1, float(right.mean()), float(nll.mean()), float(ece.mean()), spread))
        return found

    @property
    def right_of_blocks(self) -> Float64:
        """Correct predictions in each block, of each point the mean over its runs: [B, M] float64."""
        means = [right[self._counted(k)].mean(axis=0) for k, right in enumerate(self.right)]
        found: Float64 = np.stack(means, axis=1)
        return found

    def _counted(self, k: int) -> NDArray[np.bool_]:
        """The runs of k + 1 members that count: [M] bool. All runs of M members are equal."""
        members = len(self.right)
        found: NDArray[np.bool_] = self.weighed[k] if k + 1 < members else np.arange(members) == 0
        return found


def curve(
    log_probabilities: Sequence[LogProbabilities],
    weights: MemberWeights,
    combine: str,
    labels: Index,
    blocks: Blocks | None = None,
) -> CurveSums:
    """Sums for accuracy and likelihood by number of members.

    log_probabilities: M arrays [N, K]. labels: [N] int64. blocks: of the rows; None: all in one. Each run of k + 1
    neighbours is the run of k from the same start plus one member: M^2 N K additions, in chunks of rows. Weights per
    example are computed among all members, then scaled to sum to 1 over the run. Generalists and specialists answer
    anew in each run.
    """
    members = len(log_probabilities)
    in_blocks = blocks or Blocks(np.zeros(len(labels), np.int64), 1)
    right, nll = np.zeros((members, members, in_blocks.number), np.int32), np.zeros((members, members))
    gaps = np.zeros((members, members, BINS))
    weighed = np.ones((members, members), bool)
    for rows in _chunks(log_probabilities):
        each = np.stack([p[rows] for p in log_probabilities], dtype=np.float64)
        if isinstance(weights, SpecialistRule):
            found = _runs(weights, each, labels[rows])
        else:
            shares = _shares(weights, combine, each)
            masses = _masses(shares)
            weighed &= (masses > 0).all(axis=2)
            found = _ring(each, shares, masses, combine, labels[rows])
        _add_by_block(right, found[0], in_blocks.of[rows])
        nll += found[1]
        gaps += found[2]
    return CurveSums(len(labels), right, nll, gaps, weighed)


def _add_by_block(right: NDArray[np.int32], correct: NDArray[np.bool_], of: Index) -> None:
    """right[..., b] += the correct predictions of the rows in block b, in place. correct: [M, M, n]. of: [n]."""
    order = np.argsort(of, kind="stable")
    present, starts = np.unique(of[order], return_index=True)
    right[..., present] += np.add.reduceat(correct[..., order], starts, axis=2, dtype=np.int32)


def _runs(rule: SpecialistRule, each: Float64, labels: Index) -> tuple[NDArray[np.bool_], Float64, Float64]:
    """As `_ring`, of generalists and specialists. each: [M, n, K] log-probabilities."""
    members, rows = len(each), np.arange(len(labels))
    right, nll = np.zeros((members, members, len(labels)), bool), np.zeros((members, members))
    gaps = np.zeros((members, members, BINS))
    for k in range(members):
        for first in range(members):
            chosen = sorted((first + place) % members for place in range(k + 1))
            found = _of_specialists(rule.among(chosen), each[chosen])
            right[k, first], nll[k, first] = found.argmax(axis=1) == labels, -found[rows, labels].sum()
            gaps[k, first] = _gaps(np.exp(found.max(axis=1))[None], right[k, first][None])[0]
    return right, nll, gaps


def _ring(
    each: Float64, shares: Float64, masses: Float64, combine: str, labels: Index
) -> tuple[NDArray[np.bool_], Float64, Float64]:
    """Which predictions are correct, summed NLL, and gaps by bin of every run of neighbours over some rows: [M, M, n]
    bool, [M, M], [M, M, BINS].

    The first axes of the results are the run's length - 1 and its first member. each: [M, n, K] log-probabilities,
    overwritten. shares: [M, n], or [M, 1] where all examples share them. masses: their `_masses`.
    """
    members, rows = len(each), np.arange(len(labels))
    right, nll = np.zeros((members, members, len(labels)), bool), np.zeros((members, members))
    gaps = np.zeros((members, members, BINS))
    with np.errstate(divide="ignore", invalid="ignore"):  # runs of total weight 0 are NaN
        of_label = each[:, rows, labels] + np.log(shares)
        terms = np.exp(each, out=each) if combine == "arithmetic" else each
        terms *= shares[:, :, None]
        terms[np.broadcast_to(shares == 0, terms.shape[:2])] = 0.0  # 0 * -inf gave NaN
        sums, of_sums = np.zeros_like(terms), np.full_like(of_label, -np.inf)
        for k, mass in enumerate(masses):
            _add_rolled(sums, terms, k)
            right[k] = sums.argmax(axis=2) == labels
            if combine == "arithmetic":
                np.logaddexp(of_sums, np.roll(of_label, -k, axis=0), out=of_sums)
                found, confidence = of_sums - np.log(mass), sums.max(axis=2) / mass
            else:
                means = sums / mass[:, :, None]
                normalizer = _finite(_log_sum_exp(means, axis=2))
                found, confidence = means[:, rows, labels] - normalizer, np.exp(means.max(axis=2) - normalizer)
            nll[k] = -found.sum(axis=1)
            gaps[k] = _gaps(np.nan_to_num(confidence), right[k])
    return right, nll, gaps


def _gaps(confidence: Float64, correct: NDArray[np.bool_]) -> Float64:
    """Confidence less correctness, summed by bin of confidence: [M, BINS] of [M, n]."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    places = np.arange(len(bins))[:, None] * BINS + bins
    summed = np.bincount(places.ravel(), weights=(confidence - correct).ravel(), minlength=len(bins) * BINS)
    return summed.astype(np.float64).reshape(-1, BINS)


def _masses(shares: Float64) -> Float64:
    """The summed shares [M, n] of every run of neighbours: [M, M, n], by the run's length - 1 and first member."""
    return np.stack([np.roll(shares, -k, axis=0) for k in range(len(shares))]).cumsum(axis=0)


def _add_rolled(sums: Float64, terms: Float64, by: int) -> None:
    """sums[m] += terms[(m + by) % M] for each m, in place."""
    cut = len(sums) - by
    sums[:cut] += terms[by:]
    sums[cut:] += terms[:by]


def fit_weights(label_log_probabilities: NDArray[Any]) -> list[float]:
    """Member weights that maximise the likelihood of held-out labels under the arithmetic mean.

    With a geometric mean they are only an estimate of each member's quality.

    label_log_probabilities: [M, N], each member's log-probability of the true label of each held-out example. Returns
    M weights that sum to 1. Their mean log-likelihood is at most 1e-6 nats per example below the maximum.
    They are rounded to eight digits, so that rounding on another machine gives the same ensemble. Examples whose label
    has probability 0 under every member are left out; if no other example is left, the weights are uniform.

    The log-likelihood is concave in the weights. Each step is a Newton step, and non-negative least squares keeps
    the weights at or above 0 (Kim, Carbonetto, Stephens and Anitescu 2020, "A fast algorithm for maximum likelihood
    estimation of mixture proportions using sequential quadratic programming"). Where rounding stops Newton's method,
    a step of expectation-maximisation replaces it (Dempster, Laird and Rubin 1977). The duality gap
    max_m mean_n p_mn / mix_n - 1 bounds the distance to the maximum.
    """
    logs = np.asarray(label_log_probabilities, dtype=np.float64)
    members = len(logs)
    weights = np.full(members, 1.0 / members)
    possible = np.isfinite(logs.max(axis=0))
    relative = np.exp(logs[:, possible] - logs[:, possible].max(axis=0))  # a factor per example cancels
    for _ in range(_MOST_STEPS if possible.any() else 0):
        responsibility = relative / (weights @ relative)
        if responsibility.mean(axis=1).max() - 1 <= _GAP:
            break
        weights = _towards(relative, weights, responsibility)
    return normalised([float(f"{w:.8g}") if w > _NEGLIGIBLE else 0.0 for w in weights])


def _towards(relative: Float64, weights: Float64, responsibility: Float64) -> Float64:
    """One step to weights of higher likelihood.

    relative: [M, N], probabilities up to a factor per example. responsibility: [M, N], `relative` divided by its
    mixture.
    """
    gradient = responsibility.mean(axis=1)
    newton = _newton(responsibility, weights, gradient) - weights
    likelihood, slope = np.log(weights @ relative).mean(), float(gradient @ newton - newton.sum())
    with np.errstate(divide="ignore"):
        for step in 0.5 ** np.arange(20):
            found = np.clip(weights + step * newton, 0.0, None)
            if np.log((found / found.sum()) @ relative).mean() >= likelihood + 1e-4 * step * slope - _ROUNDING:
                break
        else:
            found = weights * gradient
    scaled: Float64 = found / found.sum()
    return scaled


def _newton(responsibility: Float64, weights: Float64, gradient: Float64) -> Float64:
    """The weights, at or above 0, that maximise the second-order model of log-likelihood minus sum of weights.

    The subtracted sum replaces the constraint that the weights sum to 1.
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    members, examples = responsibility.shape
    hessian = responsibility @ responsibility.T / examples
    ridge = 1e-10 * float(np.trace(hessian)) / members + 1e-14  # equal members make the Hessian singular
    upper = cholesky(hessian + ridge * np.eye(members))
    target = solve_triangular(upper, 2 * gradient - 1 + ridge * weights, trans="T")
    try:
        found: Float64 = nnls(upper, target, maxiter=100 * members)[0]
    except RuntimeError:  # too many steps; the caller falls back to expectation-maximisation
        return weights
    return found


def _shares(
    weights: Sequence[float] | ExampleWeights, combine: str, log_probabilities: Sequence[NDArray[Any]] | Float64
) -> Float64:
    """Weights that sum to 1 over the members: [M, 1], or per example of `log_probabilities` (M arrays) [M, N]."""
    if combine not in COMBINES:
        raise ValueError(f"combine is '{combine}'; expected {' or '.join(COMBINES)}")
    if not isinstance(weights, (str, FactorySpec)):
        return np.array(normalised(weights))[:, None]
    probabilities = np.exp(np.stack(list(log_probabilities), dtype=np.float64))
    return mixture_weights.of_examples(weights, torch.from_numpy(probabilities)).numpy()


def _chunks(log_probabilities: Sequence[LogProbabilities]) -> Iterator[slice]:
    rows, classes = log_probabilities[0].shape
    size = max(1, CHUNK_VALUES // (len(log_probabilities) * classes))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _log_sum_exp(values: Float64, axis: int) -> Float64:
    """log of the sum of exp along an axis; -inf where all values are -inf."""
    top = values.max(axis=axis, keepdims=True)
    with np.errstate(divide="ignore"):
        found: Float64 = np.log(np.exp(values - _finite(top)).sum(axis=axis)) + _finite(top.squeeze(axis))
    return found


def _finite(values: Float64) -> Float64:
    """`values` with 0 for -inf, so that -inf minus the result stays -inf and does not become NaN."""
    return np.where(np.isneginf(values), 0.0, values)
