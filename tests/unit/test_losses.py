"""The distillation loss against an independent implementation, and what must hold for any inputs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.losses import distillation_loss


def reference(logits: np.ndarray, soft: np.ndarray, labels: np.ndarray, t: float, a: float, b: float) -> float:
    """The formula of CONTRACT in float64 numpy, row by row."""

    def log_softmax(v: np.ndarray) -> np.ndarray:
        return v - v.max() - np.log(np.exp(v - v.max()).sum())

    soft_term = sum(-(p * log_softmax(z / t)).sum() for z, p in zip(logits, soft, strict=True)) / len(logits)
    hard = [-log_softmax(z)[y] for z, y in zip(logits, labels, strict=True) if y >= 0]
    return float(a * t * t * soft_term + b * (np.mean(hard) if hard else 0.0))


def example(rows: int = 17, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=rng, dtype=torch.float64) * 3
    soft = torch.softmax(torch.randn(rows, classes, generator=rng, dtype=torch.float64), -1)
    labels = torch.randint(-1, classes, (rows,), generator=rng)
    return logits, soft, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
@pytest.mark.parametrize(("soft_weight", "hard_weight"), [(1.0, 0.0), (0.0, 1.0), (0.9, 0.1)])
def test_agrees_with_the_formula(temperature: float, soft_weight: float, hard_weight: float) -> None:
    logits, soft, labels = example()
    found = distillation_loss(
        logits, soft, labels, temperature=temperature, soft_weight=soft_weight, hard_weight=hard_weight
    )
    expected = reference(logits.numpy(), soft.numpy(), labels.numpy(), temperature, soft_weight, hard_weight)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_gradient_is_zero_where_the_student_equals_the_teacher() -> None:
    logits = example()[0].requires_grad_()
    soft = torch.softmax(logits.detach() / 3.0, -1)
    distillation_loss(logits, soft, None, temperature=3.0, soft_weight=1.0, hard_weight=0.0).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


def test_unlabelled_rows_give_no_hard_loss_and_do_not_dilute_it() -> None:
    logits, soft, labels = example()
    labels[:] = -1
    labels[3] = 2
    alone = distillation_loss(logits[3:4], None, labels[3:4], temperature=1.0, soft_weight=0.0, hard_weight=1.0)
    among = distillation_loss(logits, soft, labels, temperature=1.0, soft_weight=0.0, hard_weight=1.0)
    assert among.item() == pytest.approx(alone.item())
    labels[3] = -1
    none = distillation_loss(logits.requires_grad_(), soft, labels, temperature=1.0, soft_weight=0.0, hard_weight=1.0)
    none.backward()
    assert none.item() == 0.0
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() == 0


@pytest.mark.parametrize("cuts", [2, 3, 17])
def test_parts_of_a_batch_add_up_to_the_whole(cuts: int) -> None:
    logits, soft, labels = example()
    weights = {"temperature": 2.0, "soft_weight": 0.6, "hard_weight": 0.4}
    whole = distillation_loss(logits, soft, labels, **weights)
    labelled = int((labels >= 0).sum())
    parts = [
        distillation_loss(logits[rows], soft[rows], labels[rows], **weights, rows=17, labelled_rows=labelled)
        for rows in map(torch.from_numpy, np.array_split(np.arange(17), cuts))
    ]
    assert sum(p.item() for p in parts) == pytest.approx(whole.item(), rel=1e-12)


def test_high_temperature_matches_logits() -> None:
    """Hinton et al. 2015, section 2.1: for large T and zero-mean logits the gradient is (z - v) / N, T^2 included."""
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(1, 6, generator=rng, dtype=torch.float64)
    v = torch.randn(1, 6, generator=rng, dtype=torch.float64)
    z, v = (z - z.mean()).requires_grad_(), v - v.mean()
    t = 1e4
    distillation_loss(z, torch.softmax(v / t, -1), None, temperature=t, soft_weight=1.0, hard_weight=0.0).backward()
    torch.testing.assert_close(z.grad, (z.detach() - v) / 6, rtol=1e-3, atol=1e-6)


def test_wrong_targets_are_named() -> None:
    logits, soft, labels = example()
    with pytest.raises(ValueError, match="temperature is 0"):
        distillation_loss(logits, soft, labels, temperature=0.0, soft_weight=1.0, hard_weight=0.0)
    with pytest.raises(ValueError, match=r"soft targets of shape \[17, 4\]"):
        distillation_loss(logits, soft[:, :4], labels, temperature=1.0, soft_weight=1.0, hard_weight=0.0)
    with pytest.raises(ValueError, match="labels of shape None"):
        distillation_loss(logits, soft, None, temperature=1.0, soft_weight=1.0, hard_weight=1.0)
