"""Metrics with known answers, and parts that add up."""

import numpy as np
import pytest
import torch

from workers import evaluate

P = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], np.float32)
Y = np.array([0, 1, 1, 1])


def test_known_figures() -> None:
    found = evaluate.measure(P, Y)
    assert found.accuracy == 0.75
    assert found.mean_nll == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean(), rel=1e-6)
    # Each example has a bin of its own: |0.9 - 1|, |0.6 - 0|, |0.8 - 1|, |0.7 - 1|.
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4, rel=1e-6)


def test_parts_add_up() -> None:
    whole, parts = evaluate.measure(P, Y), evaluate.measure(P[:1], Y[:1]) + evaluate.measure(P[1:], Y[1:])
    assert (parts.accuracy, parts.examples) == (whole.accuracy, 4)
    assert parts.mean_nll == pytest.approx(whole.mean_nll) and parts.ece == pytest.approx(whole.ece)


def test_a_certain_mistake_is_finite() -> None:
    assert np.isfinite(evaluate.measure(np.array([[1.0, 0.0]], np.float32), np.array([1])).mean_nll)


def test_predictions_are_those_of_one_batch() -> None:
    module = torch.nn.Linear(4, 3)
    x = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    expected = torch.softmax(module(torch.from_numpy(x)), -1).detach().numpy()
    np.testing.assert_allclose(evaluate.predict(module, x, batch_size=3), expected, rtol=1e-6)
