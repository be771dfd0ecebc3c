"""The mixture: a mean that obeys Jensen however sure its members are, a curve equal to its definition, the best
weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers import ensemble
from workers.ensemble import COMBINES, normalised
from workers.evaluation import metrics, mixture
from workers.evaluation.mixture import fit_weights, log_mean

SEEDS = st.integers(0, 2**32 - 1)
WEIGHT_TOLERANCE = 1e-6
"""As `fit_weights` documents it."""


def answers(seed: int, members: int, rows: int, classes: int, scale: float) -> NDArray[np.float32]:
    """Log-probabilities [M, N, K] float32, as `evaluate.log_probabilities` gives them."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(members, rows, classes)) * scale).float().clamp(-1000, 1000)
    return torch.log_softmax(logits, -1).numpy()


def nll(log_probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return metrics.measure(log_probabilities, labels).mean_nll


def test_the_mean_of_members_that_are_sure_and_wrong() -> None:
    """Ten members of NLL 36 or so: fixed point rounds each to 0, which a clamp at the least float32 made 87."""
    logits = torch.zeros(10, 1, 2)
    logits[:, 0, 1] = torch.arange(30.0, 40.0)
    p = torch.log_softmax(logits, -1).numpy()
    assert nll(log_mean(list(p), [0.1] * 10, "arithmetic"), np.array([0])) == pytest.approx(
        -math.log(np.exp(-np.arange(30.0, 40.0)).mean()), rel=1e-7
    )
    assert nll(log_mean(list(p), [0.1] * 10, "geometric"), np.array([0])) == pytest.approx(34.5, rel=1e-7)


@given(
    SEEDS, st.integers(1, 8), st.integers(2, 9), st.sampled_from([0.1, 3.0, 40.0, 1000.0]), st.sampled_from(COMBINES)
)
def test_a_mean_loses_at_most_what_its_members_lose_on_average(
    seed: int, members: int, classes: int, scale: float, combine: str
) -> None:
    """A mean loses at most what its members lose on average, by the definition and as it is measured by chunks."""
    p = answers(seed, members, 20, classes, scale)
    rng = np.random.default_rng(seed)
    labels, weights = rng.integers(0, classes, 20), rng.random(members) * (rng.random(members) < 0.7)
    weights[seed % members] = 1.0
    found = mixture.measure_mean(list(p), list(weights), combine, labels).mean_nll
    most = sum(w * nll(each, labels) for w, each in zip(normalised(list(weights)), p, strict=True))
    rounding = 1e-6 if combine == "geometric" else 1e-12  # float32 rows sum to 1 only so nearly
    assert found <= most + rounding * max(1.0, most)
    assert math.isfinite(found)


@given(SEEDS, st.integers(1, 6), st.integers(2, 9), st.sampled_from(COMBINES))
def test_it_is_the_mean_of_the_soft_targets(seed: int, members: int, classes: int, combine: str) -> None:
    p, weights = answers(seed, members, 5, classes, 2.0), list(np.random.default_rng(seed).random(members) + 0.01)
    exact = ensemble.average([torch.from_numpy(each).double().exp() for each in p], weights, combine)
    found = np.exp(log_mean(list(p), weights, combine))
    np.testing.assert_allclose(found, exact.numpy(), rtol=1e-6, atol=1e-9)


def test_classes_that_are_ruled_out_are_no_nan() -> None:
    out = -np.inf
    p = [np.array([[0.0, out]], np.float32), np.array([[out, 0.0]], np.float32), np.array([[0.0, out]], np.float32)]
    np.testing.assert_allclose(np.exp(log_mean(p, [1, 1, 2], "arithmetic")), [[0.75, 0.25]])
    np.testing.assert_array_equal(log_mean([p[0], p[2]], [1, 1], "geometric"), p[0])
    np.testing.assert_array_equal(log_mean(p, [1, 0, 1], "geometric"), p[0])
    np.testing.assert_array_equal(log_mean(p, [1, 1, 0], "geometric"), [[out, out]])
    with np.errstate(all="raise"):
        points = mixture.curve(p, [1, 1, 2], "arithmetic", np.array([1])).points
    assert [point.nll for point in points] == [math.inf, math.inf, pytest.approx(math.log(4))]


def directly(
    p: NDArray[np.float32], weights: list[float], combine: str, labels: NDArray[np.int64]
) -> list[tuple[float, float, float, float]]:
    """The curve by its definition: each run of neighbours averaged for itself."""
    members, points = len(p), []
    for k in range(1, members + 1):
        choices = [[(first + step) % members for step in range(k)] for first in range(members if k < members else 1)]
        each = [
            metrics.measure(log_mean([p[m] for m in chosen], [weights[m] for m in chosen], combine), labels)
            for chosen in choices
            if sum(weights[m] for m in chosen) > 0
        ]
        accuracies = [s.accuracy for s in each]
        spread = float(np.std(accuracies, ddof=1)) if len(each) > 1 else 0.0
        of_each = (accuracies, [s.mean_nll for s in each], [s.ece for s in each])
        accuracy, nll, ece = (sum(values) / len(each) for values in of_each)
        points.append((accuracy, nll, ece, spread))
    return points


@given(
    SEEDS, st.integers(1, 7), st.integers(2, 6), st.sampled_from([1.0, 500.0]), st.sampled_from(COMBINES), st.booleans()
)
def test_the_curve_is_its_definition(
    seed: int, members: int, classes: int, scale: float, combine: str, some_are_0: bool
) -> None:
    rng = np.random.default_rng(seed)
    p, labels = answers(seed, members, 11, classes, scale), rng.integers(0, classes, 11)
    weights = list(rng.random(members) + 0.01)
    if some_are_0 and members > 1:
        weights[: members // 2] = [0.0] * (members // 2)
    found = mixture.curve(list(p), weights, combine, labels).points
    assert [point.members for point in found] == list(range(1, members + 1))
    expected = directly(p, weights, combine, labels)
    figures = [(point.accuracy, point.nll, point.ece, point.spread or 0.0) for point in found]
    np.testing.assert_allclose(figures, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("combine", COMBINES)
def test_chunks_of_rows_add_up(monkeypatch: pytest.MonkeyPatch, combine: str) -> None:
    p, labels = list(answers(0, 5, 100, 4, 3.0)), np.random.default_rng(0).integers(0, 4, 100)
    weights = [1.0, 2.0, 3.0, 4.0, 5.0]
    whole = mixture.curve(p, weights, combine, labels).points, mixture.measure_mean(p, weights, combine, labels)
    monkeypatch.setattr(mixture, "CHUNK_VALUES", 5 * 4 * 7)
    parts = mixture.curve(p, weights, combine, labels).points, mixture.measure_mean(p, weights, combine, labels)
    got, expected = ([(p.members, p.accuracy, p.nll, p.ece, p.spread or 0.0) for p in of[0]] for of in (parts, whole))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    assert parts[1].mean_nll == pytest.approx(whole[1].mean_nll, rel=1e-12) and parts[1].accuracy == whole[1].accuracy
    assert parts[0][-1].accuracy == parts[1].accuracy and parts[0][-1].nll == pytest.approx(parts[1].mean_nll)


def test_the_curve_by_blocks_is_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    p, labels, weights = answers(0, 3, 12, 4, 3.0), np.random.default_rng(0).integers(0, 4, 12), [1.0, 2.0, 3.0]
    blocks = metrics.Blocks(np.array([4, 0, 1, 2, 0, 4, 4, 1, 0, 2, 4, 1]), 5)  # none is in block 3
    monkeypatch.setattr(mixture, "CHUNK_VALUES", 3 * 4 * 5)
    found = mixture.curve(list(p), weights, "arithmetic", labels, blocks)
    for k, point in enumerate(found.points):
        runs = [[(first + step) % 3 for step in range(k + 1)] for first in range(3)]
        means = [log_mean([p[m] for m in run], [weights[m] for m in run], "arithmetic") for run in runs]
        right = [metrics.measure(mean, labels, blocks).of_blocks[:, metrics.CORRECT] for mean in means]
        np.testing.assert_allclose(found.right_of_blocks[:, k], np.mean(right, axis=0))
        assert found.right_of_blocks[:, k].sum() / 12 == pytest.approx(point.accuracy)


def test_the_curve_counts_every_member_alike() -> None:
    """Two members that are always right and one that is always wrong: a single one is right two times in three."""
    right = np.log(np.array([[0.9, 0.1], [0.1, 0.9]], np.float32))
    points = mixture.curve([right, right, right[::-1]], [1 / 3] * 3, "arithmetic", np.array([0, 1])).points
    assert points[0].accuracy == pytest.approx(2 / 3) and points[2].accuracy == 1.0


def test_members_that_say_nothing_are_right_where_the_first_class_is() -> None:
    p = np.full((3, 4, 2), math.log(0.5), np.float32)
    assert [
        point.accuracy for point in mixture.curve(list(p), [1] * 3, "arithmetic", np.array([0, 1, 1, 1])).points
    ] == [0.25] * 3


def gap(logs: NDArray[Any], weights: list[float]) -> float:
    """The most by which the mean log-likelihood of these weights can be below its maximum, nats an example."""
    relative = np.exp(logs - logs.max(axis=0))
    return float((relative / (np.array(weights) @ relative)).mean(axis=1).max() - 1)


@given(SEEDS, st.integers(1, 40), st.integers(1, 200), st.sampled_from([0.01, 1.0, 30.0, 1000.0]))
def test_fitted_weights_are_the_best(seed: int, members: int, rows: int, scale: float) -> None:
    logs = answers(seed, members, rows, 5, scale)[:, :, 0]
    weights = fit_weights(logs)
    assert gap(logs, weights) < WEIGHT_TOLERANCE
    assert min(weights) >= 0 and sum(weights) == pytest.approx(1.0, abs=1e-12)
    assert fit_weights(logs) == weights


def sole(members: int, rows: int) -> NDArray[np.float64]:
    """Each example is known to one member; the last member to one example alone."""
    logs = np.full((members, rows), -2000.0)
    known = np.arange(rows) % (members - 1)
    known[-1] = members - 1
    logs[known, np.arange(rows)] = -0.1
    return logs


HUNDRED = answers(1, 100, 10, 10, 3.0)[:, :, 0]


@pytest.mark.parametrize(
    "logs",
    [
        pytest.param(np.repeat(HUNDRED[:1], 7, axis=0), id="identical members"),
        pytest.param(np.concatenate([HUNDRED[:9], np.zeros((1, 10))]), id="a perfect member"),
        pytest.param(HUNDRED[:1], id="one member"),
        pytest.param(HUNDRED, id="100 members, 10 examples"),
        pytest.param(answers(2, 100, 2000, 10, 3.0)[:, :, 0], id="100 members"),
        pytest.param(answers(3, 10, 500, 4, 0.001)[:, :, 0], id="nearly equal members"),
        pytest.param(answers(4, 10, 500, 4, 3.0)[:, :, 0] - 3000.0, id="nothing but tiny probabilities"),
        pytest.param(sole(20, 5000), id="each member alone knows some examples"),
    ],
)
def test_fitted_weights_of_odd_members(logs: NDArray[Any]) -> None:
    assert gap(logs, fit_weights(logs)) < WEIGHT_TOLERANCE


def test_where_em_was_slow_the_optimum_is_reached() -> None:
    """Many members of nearly the same worth, where 100 steps of expectation-maximisation stopped early."""
    rng = np.random.default_rng(0)
    logs = np.log(np.clip(0.5 + 0.05 * rng.normal(size=(30, 400)), 0.01, 0.99))
    em = np.full(30, 1 / 30)
    for _ in range(100):
        em *= (np.exp(logs) / (em @ np.exp(logs))).mean(axis=1)
    assert gap(logs, list(em)) > 1e-3 and gap(logs, fit_weights(logs)) < WEIGHT_TOLERANCE


def test_fitted_weights_leave_a_useless_member_out() -> None:
    good = np.log(np.random.default_rng(0).uniform(0.6, 0.9, 500))
    assert fit_weights(np.stack([good, np.full(500, math.log(0.1))])) == [1.0, 0.0]


def test_labels_that_every_member_rules_out_move_no_weight() -> None:
    logs = HUNDRED[:5].astype(np.float64)
    also = np.concatenate([logs, np.full((5, 3), -np.inf)], axis=1)
    assert fit_weights(also) == fit_weights(logs)
    assert fit_weights(np.full((4, 3), -np.inf)) == [0.25] * 4


def test_wrong_requests_are_named() -> None:
    p = list(answers(0, 2, 3, 4, 1.0))
    with pytest.raises(ValueError, match="expected arithmetic or geometric"):
        log_mean(p, [1, 1], "harmonic")
    with pytest.raises(ValueError, match="not all 0"):
        mixture.curve(p, [0, 0], "arithmetic", np.array([0, 1, 2]))
