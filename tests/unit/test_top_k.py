"""Top-k targets and their loss against the formulas written out, and where values and gradients are known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.targets import top_k
from workers.targets.dense import Dense
from workers.targets.top_k import TopK, bytes_per_row, compress, entropy, top_k_cross_entropy_sum

LOOSE = {"rtol": 1e-3, "atol": 3e-4}
"""What float16 leaves of a probability, or of the tail beside sixteen of them."""


def normal(rows: int, classes: int, seed: int, scale: float = 3.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=rng, dtype=torch.float64) * scale


def probabilities(rows: int = 9, classes: int = 20, seed: int = 1, scale: float = 3.0) -> Tensor:
    return torch.softmax(normal(rows, classes, seed, scale), -1)


def reference(logits: Tensor, targets: TopK, temperature: float) -> float:
    """The formula of the docstring in float64 numpy, row by row."""
    total = 0.0
    for z, ids, p, tail in zip(
        logits.double().numpy(),
        targets.ids.numpy(),
        targets.probabilities.double().numpy(),
        targets.tail.double().numpy(),
        strict=True,
    ):
        q = np.exp(z / temperature) / np.exp(z / temperature).sum()
        total -= (p * np.log(q[ids])).sum() + tail * np.log(np.delete(q, ids).sum())
    return total * temperature**2


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def coarsened(p: Tensor, ids: Tensor) -> Tensor:
    top = p.gather(1, ids.long())
    return torch.cat([top, 1 - top.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("k", [1, 3, 19])
def test_keeps_the_largest_and_the_mass_of_the_rest(k: int, dtype: torch.dtype) -> None:
    p = probabilities()
    found = compress(p, k, dtype)
    assert (found.ids.dtype, found.probabilities.dtype, found.tail.dtype) == (torch.int32, dtype, torch.float32)
    assert (found.ids.numpy() == np.argsort(-p.numpy(), axis=1)[:, :k]).all()
    torch.testing.assert_close(found.probabilities.double(), p.sort(-1, descending=True).values[:, :k], **LOOSE)
    torch.testing.assert_close(found.tail.double(), p.sort(-1).values[:, : 20 - k].sum(-1), **LOOSE)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_half_precision_still_sums_to_one_exactly(scale: float) -> None:
    found = compress(probabilities(rows=500, classes=2000, scale=scale), 16)
    total = found.probabilities.double().sum(-1) + found.tail.double()
    assert (total == 1.0).all()


def test_rounding_up_to_one_leaves_no_negative_tail() -> None:
    found = compress(torch.tensor([[0.0001, 0.99985, 0.00005]]), 2)
    assert found.probabilities[0, 0] == 1.0
    assert found.tail.tolist() == [0.0]


@pytest.mark.parametrize("k", range(1, 8))
def test_of_equal_ones_the_lowest_ids(k: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.choice([0.0, 0.125, 0.25], size=(200, 8))
    expected = np.argsort(-p, axis=1, kind="stable")[:, :k]
    assert (compress(torch.from_numpy(p), k).ids.numpy() == expected).all()


def test_equal_ones_far_into_a_large_vocabulary() -> None:
    found = compress(torch.full((3, 50_000), 1 / 50_000), 16)
    assert found.ids.tolist() == [list(range(16))] * 3


def test_all_classes_leave_no_tail() -> None:
    assert compress(probabilities().float(), 20).tail.tolist() == [0.0] * 9


def test_no_rows_compress_to_no_rows() -> None:
    assert len(compress(torch.empty(0, 5), 2)) == 0


def test_wrong_requests_are_named() -> None:
    with pytest.raises(ValueError, match=r"k is 21 for probabilities of shape \[9, 20\]"):
        compress(probabilities(), 21)
    with pytest.raises(ValueError, match="k is 0"):
        compress(probabilities(), 0)
    with pytest.raises(ValueError, match=r"torch\.int8"):
        compress(probabilities(), 2, torch.int8)
    with pytest.raises(ValueError, match="NaN"):
        compress(torch.tensor([[0.5, float("nan"), 0.5]]), 1)
    with pytest.raises(ValueError, match=r"shapes \[\[2, 3\], \[2, 3\], \[1\]\]"):
        TopK(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("k", [1, 4, 19])
def test_agrees_with_the_formula(k: int, dtype: torch.dtype, temperature: float) -> None:
    logits, targets = normal(9, 20, 2), compress(probabilities(), k, dtype)
    found = top_k_cross_entropy_sum(logits, targets, temperature=temperature)
    assert found.item() == pytest.approx(reference(logits, targets, temperature), rel=1e-12)


def test_all_classes_are_the_dense_loss() -> None:
    logits, p = normal(9, 20, 2).requires_grad_(), probabilities().float()
    dense = Dense(p, 2.0).cross_entropy_sum(logits)
    found = top_k_cross_entropy_sum(logits, compress(p, 20, torch.float32), temperature=2.0)
    assert found.item() == pytest.approx(dense.item(), rel=1e-12)
    (expected,) = torch.autograd.grad(dense, logits)
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 4, 12])
def test_is_the_kl_of_the_coarsened_and_below_that_of_the_full(k: int) -> None:
    p, q = probabilities(rows=50), probabilities(rows=50, seed=3)
    targets = compress(p, k, torch.float32)
    found = top_k_cross_entropy_sum(q.log(), targets, temperature=1.0).item() - entropy(targets).sum().item()
    assert found == pytest.approx(kl(coarsened(p, targets.ids), coarsened(q, targets.ids)).sum().item(), rel=1e-5)
    assert 0 < found < kl(p, q).sum().item()


@pytest.mark.parametrize("k", [1, 4, 12])
def test_is_at_its_floor_where_the_student_has_the_same_coarsened_distribution(k: int) -> None:
    p = probabilities()
    targets = compress(p, k, torch.float32)
    shuffled = p.clone()  # the tail's mass, otherwise spread
    for row, ids in zip(shuffled, targets.ids.long(), strict=True):
        rest = torch.ones(20, dtype=torch.bool).index_fill(0, ids, False)
        row[rest] = row[rest].sum() * torch.softmax(normal(1, 20 - k, 5)[0], -1)
    for student in (p, shuffled):
        logits = (3.0 * student.log()).requires_grad_()
        loss = top_k_cross_entropy_sum(logits, targets, temperature=3.0)
        loss.backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() < 1e-6
        assert loss.item() == pytest.approx(9 * entropy(targets).double().sum().item(), rel=1e-6)


def test_one_class_still_teaches() -> None:
    """Scaled up to sum to 1, a single class has a loss of 0 that the student reaches by being sure of it."""
    targets = compress(torch.tensor([[0.6, 0.3, 0.1]]), 1, torch.float32)
    sure = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
    top_k_cross_entropy_sum(sure, targets, temperature=1.0).backward()
    assert sure.grad is not None
    torch.testing.assert_close(sure.grad, torch.tensor([[0.4, -0.2, -0.2]]))


@pytest.mark.parametrize("chunk", [1, 60, top_k._CHUNK])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_gradient_is_that_of_the_value(k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k, "_CHUNK", chunk)
    targets = compress(probabilities(), k)
    logits = normal(9, 20, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 0.3 * top_k_cross_entropy_sum(z, targets, temperature=2.0), logits)


def test_mass_outside_the_top_is_right_where_one_minus_the_sum_is_zero() -> None:
    targets = TopK(torch.tensor([[0]]), torch.tensor([[0.5]]), torch.tensor([0.5]))
    logits = torch.tensor([[200.0, 1.0, 1.0]], requires_grad=True)
    loss = top_k_cross_entropy_sum(logits, targets, temperature=1.0)
    assert loss.item() == pytest.approx(0.5 * (199 - math.log(2)))
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.25, -0.25]]))


def test_classes_that_the_student_excludes() -> None:
    """A vocabulary padded with -inf, wholly or partly in the tail, gives numbers and no NaN."""
    targets = TopK(torch.tensor([[0], [0]]), torch.tensor([[0.75], [1.0]]), torch.tensor([0.25, 0.0]))
    excluded = -torch.inf
    logits = torch.tensor([[0.0, 0.0, excluded], [0.0, excluded, excluded]], requires_grad=True)
    loss = top_k_cross_entropy_sum(logits, targets, temperature=1.0)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.25, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_taken_up(dtype: torch.dtype) -> None:
    targets = compress(probabilities(), 4)
    logits = normal(9, 20, 2).to(dtype).requires_grad_()
    upcast = logits.detach().float().requires_grad_()
    found, expected = (top_k_cross_entropy_sum(z, targets, temperature=2.0) for z in (logits, upcast))
    assert found.dtype == torch.float32
    assert found.item() == expected.item()
    found.backward()
    expected.backward()
    assert logits.grad is not None and upcast.grad is not None
    assert logits.grad.dtype == dtype
    assert torch.equal(logits.grad, upcast.grad.to(dtype))


def test_inputs_stay_as_they_are() -> None:
    targets = compress(probabilities(), 4)
    logits = normal(9, 20, 2).float().requires_grad_()
    before = logits.detach().clone()
    top_k_cross_entropy_sum(logits, targets, temperature=1.0).backward()
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("cuts", [2, 9])
def test_parts_of_a_batch_add_up_to_the_whole(cuts: int) -> None:
    logits, targets = normal(9, 20, 2), compress(probabilities(), 4)
    whole = top_k_cross_entropy_sum(logits, targets, temperature=2.0)
    parts = [
        top_k_cross_entropy_sum(logits[rows], targets.rows(rows), temperature=2.0)
        for rows in map(torch.from_numpy, np.array_split(np.arange(9), cuts))
    ]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-12)
    assert top_k_cross_entropy_sum(logits[:0], targets.rows(slice(0, 0)), temperature=2.0).item() == 0.0


def test_wrong_targets_are_named() -> None:
    targets = compress(probabilities(), 4)
    with pytest.raises(ValueError, match="temperature is 0"):
        top_k_cross_entropy_sum(normal(9, 20, 2), targets, temperature=0.0)
    with pytest.raises(ValueError, match=r"= \[9, 4\] for logits of shape \[8, 20\]"):
        top_k_cross_entropy_sum(normal(8, 20, 2), targets, temperature=1.0)
    with pytest.raises(ValueError, match="at most as many classes"):
        top_k_cross_entropy_sum(normal(9, 3, 2), targets, temperature=1.0)


def test_entropy_of_known_events() -> None:
    targets = TopK(
        torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0.25, 0.25], [1.0, 0.0]]).half(), torch.tensor([0.5, 0.0])
    )
    assert entropy(targets).tolist() == pytest.approx([1.5 * math.log(2), 0.0])


def test_a_row_of_sixteen_is_within_the_budget() -> None:
    """114 bytes a token: what DistillKit sets itself at k = 16."""
    assert bytes_per_row(16) == 108
    assert bytes_per_row(16, torch.float32) == 140
