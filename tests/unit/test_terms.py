"""Each term against an independent formula in float64 numpy, by its gradient, and what must hold for any term."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import ensemble
from workers.errors import RequestError
from workers.losses import TERMS, Batch, Outputs
from workers.losses.jensen_shannon import JensenShannon
from workers.losses.term import share
from workers.signals import BESIDE, Signal
from workers.targets.base import Targets
from workers.targets.dense import Dense
from workers.targets.kinds import of_mean
from workers.targets.top_k import compress

ROWS, CLASSES = 7, 5
Array = NDArray[np.float64]
Formula = Callable[[Array, Array, Array, float], float]


def softmax(v: Array) -> Array:
    e = np.exp(v - v.max(axis=-1, keepdims=True))
    found: Array = e / e.sum(axis=-1, keepdims=True)
    return found


def kl(p: Array, q: Array) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p.flat, q.flat, strict=True) if a > 0))


def soft(z: Array, p: Array, y: Array, t: float) -> float:
    return -float((p * np.log(softmax(z / t))).sum()) * t * t


def reverse(z: Array, p: Array, y: Array, t: float) -> float:
    return kl(softmax(z / t), p) * t * t


def jensen(z: Array, p: Array, y: Array, t: float) -> float:
    q = softmax(z / t)
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2 * t * t


def squares(z: Array, p: Array, y: Array, t: float) -> float:
    v = t * np.log(p)
    total = 0.0
    for a, b in zip(z, v, strict=True):
        total += float(((a - a.mean() - b + b.mean()) ** 2).sum()) / (2 * len(a))
    return total


def hard(z: Array, p: Array, y: Array, t: float) -> float:
    return -float(sum(np.log(softmax(row)[int(label)]) for row, label in zip(z, y, strict=True) if label >= 0))


FORMULAS: dict[str, Formula] = {
    "soft": soft,
    "reverse_kl": reverse,
    "jensen_shannon": jensen,
    "logits_mse": squares,
    "hard": hard,
}
OF_EVENTS = ["soft", "reverse_kl", "jensen_shannon"]


def example(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, probabilities and labels, of which one is missing."""
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(3 * rng.normal(size=(ROWS, CLASSES)))
    p = torch.from_numpy(rng.dirichlet(np.full(CLASSES, 0.5), ROWS) * 0.98 + 0.02 / CLASSES)
    y = torch.from_numpy(rng.integers(0, CLASSES, ROWS))
    y[2] = -1
    return z, p, y


def batch(targets: Targets, y: Tensor) -> Batch:
    return Batch(y, targets, ROWS, ROWS - 1)


def test_every_term_has_a_formula_here() -> None:
    of_logits = {name for name, term in TERMS.items() if not term.needs & BESIDE}  # tests of others: test_hidden.py
    assert FORMULAS.keys() | {"masked_lm"} == of_logits and TERMS["masked_lm"] is TERMS["hard"]


@pytest.mark.parametrize("t", [0.7, 1.0, 4.0])
@pytest.mark.parametrize("name", FORMULAS)
def test_each_term_is_its_formula(name: str, t: float) -> None:
    z, p, y = example()
    value, count = TERMS[name]()(Outputs(z), batch(Dense(p, t), y))
    assert value.item() == pytest.approx(FORMULAS[name](z.numpy(), p.numpy(), y.numpy(), t), rel=1e-9)
    assert count == (ROWS - 1 if name == "hard" else ROWS)


@pytest.mark.parametrize("t", [0.7, 3.0])
@pytest.mark.parametrize("k", [1, 3, CLASSES])
@pytest.mark.parametrize("name", OF_EVENTS)
def test_a_term_of_top_k_is_its_formula_over_the_events(name: str, k: int, t: float) -> None:
    """The student's events by summing probabilities, the teacher's as they are stored."""
    z, p, y = example()
    top = compress(p.float(), k, torch.float32, t)
    value, _ = TERMS[name]()(Outputs(z), batch(top, y))
    q = softmax(z.numpy() / t)
    of_top = np.take_along_axis(q, top.ids.long().numpy(), axis=1)
    events = np.concatenate([of_top, 1 - of_top.sum(axis=1, keepdims=True)], axis=1)[:, : k + (k < CLASSES)]
    stored = np.concatenate([top.probabilities.double(), top.tail.double()[:, None]], axis=1)[:, : k + (k < CLASSES)]
    expected = FORMULAS[name](t * np.log(events), stored, y.numpy(), t)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [None, 2, CLASSES])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_gradient_is_that_of_finite_differences(name: str, k: int | None) -> None:
    if k is not None and name not in OF_EVENTS:
        return
    z, p, y = example(1)
    targets: Targets = Dense(p, 2.0) if k is None else compress(p.float(), k, torch.float32, 2.0)
    term = TERMS[name]()
    assert torch.autograd.gradcheck(lambda logits: term(Outputs(logits), batch(targets, y))[0], z.requires_grad_())


@pytest.mark.parametrize("name", FORMULAS)
def test_a_term_over_pieces_of_a_batch_adds_up_to_that_of_the_batch(name: str) -> None:
    z, p, y = example(2)
    whole, term = batch(Dense(p, 2.0), y), TERMS[name]()
    expected = share(term(Outputs(z), whole), 0.3).item()
    for cuts in (2, 3, ROWS):
        found = 0.0
        for rows in map(torch.from_numpy, np.array_split(np.arange(ROWS), cuts)):
            piece = Batch(y[rows], whole.soft.rows(rows), whole.rows, whole.labelled_rows)
            found += share(term(Outputs(z[rows]), piece), 0.3).item()
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [None, 1, 3, CLASSES])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_term_is_finite_for_extreme_logits_and_probabilities_of_0(name: str, dtype: str, k: int | None) -> None:
    if k is not None and name not in OF_EVENTS:
        return
    z = 1e4 * torch.tensor([[1.0, -1.0, 0.0, 0.5, -0.5], [0.0, 0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, -1.0, -1.0, 1.0]])
    p = torch.eye(CLASSES)[[1, 0, 2]]
    stored = getattr(torch, dtype)
    targets: Targets = Dense(p.to(stored), 1.0) if k is None else compress(p, k, stored, 1.0)
    value, _ = TERMS[name]()(Outputs(z.requires_grad_()), Batch(torch.tensor([1, 0, -1]), targets, 3, 2))
    value.backward()
    assert torch.isfinite(value) and value >= 0 and z.grad is not None and torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", ["soft", "reverse_kl", "jensen_shannon", "logits_mse"])
def test_a_term_is_at_rest_where_the_student_equals_the_teacher(name: str) -> None:
    z, _, y = example(3)
    targets = Dense(torch.softmax(z / 3.0, dim=-1), 3.0)
    value, _ = TERMS[name]()(Outputs(z.requires_grad_()), batch(targets, y))
    value.backward()
    least = TERMS[name]().entropy_weight(3.0) * float(targets.entropy().double().sum())
    assert z.grad is not None and z.grad.abs().max() < 1e-12
    assert value.item() == pytest.approx(least, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("name", "scale"), [("soft", 1.0), ("reverse_kl", 1.0), ("jensen_shannon", 0.25)])
def test_a_term_at_a_high_temperature_matches_logits(name: str, scale: float) -> None:
    """Hinton et al. 2015, section 2.1: for large T, T^2 times the gradient is (z - v) / K for centred logits, which is
    the gradient of `logits_mse` at any T. JSD's is beta (1 - beta) of it."""
    z, _, y = example(4)
    v = example(5)[0]
    z, v = z - z.mean(dim=1, keepdim=True), v - v.mean(dim=1, keepdim=True)

    def gradient(term: str, t: float) -> Tensor:
        logits = z.clone().requires_grad_()
        value, _ = TERMS[term]()(Outputs(logits), batch(Dense(torch.softmax(v / t, dim=-1), t), y))
        (found,) = torch.autograd.grad(value, logits)
        return found

    expected = (z - v) / CLASSES
    torch.testing.assert_close(gradient(name, 1e6), scale * expected, rtol=1e-3, atol=1e-6)
    for t in (1.0, 20.0):
        torch.testing.assert_close(gradient("logits_mse", t), expected, rtol=1e-9, atol=1e-9)


def test_a_geometric_mean_has_the_weighted_mean_of_the_logits() -> None:
    """What `logits_mse` takes for the teachers' logits, up to a constant in each row."""
    v, weights, t = torch.stack([example(k)[0] for k in range(3)]), [0.2, 0.3, 0.5], 4.0
    p = ensemble.average(torch.softmax(v / t, dim=-1), weights, "geometric")
    found, expected = Dense(p, t).logits(torch.float64), (torch.tensor(weights)[:, None, None] * v).sum(dim=0)
    apart = found - expected
    torch.testing.assert_close(apart, apart[:, :1].expand_as(apart), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("combine", "bits"), [("geometric", torch.int32), ("arithmetic", torch.int64)])
def test_what_is_stored_as_0_is_the_least_likely(combine: str, bits: torch.dtype) -> None:
    """A geometric mean, and one in 64 bits, have probabilities far below a step of 32 bits."""
    logits = torch.tensor([[0.0, -3.0, -30.0, -200.0]])
    total = ensemble.contribution(torch.softmax(logits, -1), 1.0, combine, bits)
    targets = of_mean(ensemble.mean32(total, combine), "float32", None)
    assert targets.events(torch.float32)[0, 3] == 0 < targets.events(torch.float32)[0, 2] < 1e-12
    found = targets.logits(torch.float32)[0]
    assert torch.isfinite(found).all() and list(found) == sorted(found, reverse=True)
    assert found[3] == pytest.approx(float(found[2]) - np.log(2), rel=1e-6)


def test_jensen_shannon_between_its_limits() -> None:
    z, p, y = example(6)
    asked = Outputs(z), batch(Dense(p, 1.0), y)
    forward = kl(p.numpy(), softmax(z.numpy()))
    backward = kl(softmax(z.numpy()), p.numpy())
    for beta, limit in ((1e-6, forward), (1 - 1e-6, backward)):
        scale = beta * (1 - beta)
        assert JensenShannon(beta)(*asked)[0].item() / scale == pytest.approx(limit, rel=1e-2)
    with pytest.raises(RequestError, match=r"`beta` of jensen_shannon is 1\.0; expected a number between 0 and 1"):
        JensenShannon(1.0)


def test_top_k_has_no_logits() -> None:
    _, p, y = example()
    top = compress(p.float(), 2)
    assert Signal.LOGITS not in top.offers and TERMS["logits_mse"].needs == {Signal.LOGITS}
    with pytest.raises(RequestError, match=r"top_k targets have no logits of every class, .*`distillation\.top_k` out"):
        TERMS["logits_mse"]()(Outputs(example()[0]), batch(top, y))
