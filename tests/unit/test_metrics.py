"""Metrics with known answers, and parts that add up; predictions in pieces; latency of networks that take turns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workers.evaluation import latency, metrics
from workers.evaluation.metrics import Inference
from workers.models import last_product

P = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], np.float32))
Y = np.array([0, 1, 1, 1])


def test_figures_are_those_computed_by_hand() -> None:
    found = metrics.measure(P, Y)
    assert found.accuracy == 0.75
    assert found.mean_nll == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean(), rel=1e-6)
    # Each example has a bin of its own: |0.9 - 1|, |0.6 - 0|, |0.8 - 1|, |0.7 - 1|.
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4, rel=1e-6)
    assert found.brier == pytest.approx(2 * (0.1**2 + 0.6**2 + 0.2**2 + 0.3**2) / 4, rel=1e-6)
    blocks = metrics.measure(P, Y, metrics.Blocks(np.array([0, 2, 2, 0]), 3)).of_blocks  # the same figures, by block
    assert blocks[:, metrics.EXAMPLES].tolist() == [2, 0, 2] and blocks[:, metrics.CORRECT].tolist() == [2, 0, 1]
    assert metrics.figures(blocks.sum(axis=0)).tolist() == pytest.approx([*found.figures.values()])


def test_figures_of_parts_add_up_to_those_of_the_whole() -> None:
    whole, parts = metrics.measure(P, Y), metrics.measure(P[:1], Y[:1]) + metrics.measure(P[1:], Y[1:])
    assert (parts.accuracy, parts.examples) == (whole.accuracy, 4)
    assert parts.mean_nll == pytest.approx(whole.mean_nll) and parts.ece == pytest.approx(whole.ece)


def test_a_sure_mistake_costs_what_it_is_sure_of() -> None:
    module = nn.Linear(1, 2)
    nn.init.zeros_(module.bias)
    module.weight.data = torch.tensor([[1000.0], [-1000.0]])
    found = metrics.log_probabilities(module, np.ones((1, 1), np.float32), Inference())
    assert metrics.measure(found, np.array([1])).mean_nll == pytest.approx(2000.0)


def test_a_label_that_is_ruled_out_has_no_likelihood() -> None:
    found = metrics.measure(np.array([[0.0, -np.inf]], np.float32), np.array([1]))
    assert found.mean_nll == np.inf and found.accuracy == 0.0 and found.ece == 1.0


class Notes(nn.Module):
    """Notes how many rows come at a time, and whether its first matrix product is rounded to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.linear = nn.Linear(4, 3)
        self.rows: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        found: Tensor = self.linear(hidden)
        self.rows.append(len(x))
        self.dtypes.add(hidden.dtype)
        return found


X = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)


def test_predictions_are_those_of_one_batch() -> None:
    module = Notes()
    expected = torch.log_softmax(module.linear(module.first(torch.from_numpy(X))), -1).detach().numpy()
    labels, how = np.arange(10) % 3, Inference("auto", 3)
    np.testing.assert_allclose(metrics.predict(module, X, how), np.exp(expected), rtol=1e-6)
    np.testing.assert_allclose(metrics.log_probabilities(module, X, how), expected, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.log_probabilities(module, X, how, labels), expected[np.arange(10), labels], rtol=1e-6
    )
    assert module.rows == 3 * [3, 3, 3, 1] and module.dtypes == {torch.float32}


def test_predictions_keep_to_precision_and_to_the_size_of_examples() -> None:
    module = Notes()
    exact = metrics.log_probabilities(module, X, Inference("float32"))
    rounded = metrics.log_probabilities(module, X, Inference("bfloat16"))
    assert rounded.dtype == np.float32 and module.dtypes == {torch.float32, torch.bfloat16}
    assert 0 < np.abs(rounded - exact).max() < 0.05
    assert not last_product.is_rounded(next(metrics._logits(module, X, Inference("bfloat16"))))  # as the teachers'
    flat = nn.Sequential(nn.Flatten(1), nn.Flatten(1))
    seen: list[int] = []
    flat.register_forward_hook(lambda _, arguments, __: seen.append(len(arguments[0])))
    metrics.predict(flat, np.zeros((5, 2**21, 2), np.float32))
    assert seen == [4, 1], "of 4 million numbers each, four at a time"


class Clock:
    """Time that passes only while a network answers: about `milliseconds`, now and then ten times as long."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rng = np.random.default_rng(0)

    def taking(self, milliseconds: float) -> Callable[[Tensor], Tensor]:
        def answer(x: Tensor) -> Tensor:
            stalled = 10.0 if self.rng.random() < 0.02 else 1.0
            self.now_s += stalled * milliseconds / 1e3 * self.rng.uniform(0.9, 1.1)
            return x

        return answer


def test_the_sums_of_times_are_the_times_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are timed one after another take as long as when they are all there and answer in turn."""
    clock = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock.now_s)
    answers, example = [clock.taking(0.5), clock.taking(1.0), clock.taking(2.0)], torch.zeros(1, 4)

    def all_of_them(x: Tensor) -> Tensor:
        return torch.stack([answer(x) for answer in answers])

    together = latency.percentiles(latency.times_ms(lambda _: all_of_them(example), example.device, 3000))
    each = [
        latency.times_ms(lambda _, answer=answer: answer(example), example.device, 3000, 1000) for answer in answers
    ]
    assert [len(times) for times in each] == [3000] * 3
    apart = latency.percentiles(np.sum(each, axis=0))
    assert apart["p50"] == pytest.approx(together["p50"], rel=0.02) and apart["p50"] == pytest.approx(3.5, rel=0.05)
    assert apart["p99"] == pytest.approx(together["p99"], rel=0.1) and apart["p99"] > 3 * apart["p50"]
