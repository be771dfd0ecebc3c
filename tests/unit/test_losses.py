"""The distillation loss: unlabelled rows, parts of a batch, wrong arguments. test_properties.py has its formula."""

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.losses import distillation_loss


def example(rows: int = 17, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=rng, dtype=torch.float64) * 3
    soft = torch.softmax(torch.randn(rows, classes, generator=rng, dtype=torch.float64), -1)
    labels = torch.randint(-1, classes, (rows,), generator=rng)
    return logits, soft, labels


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


def test_wrong_targets_are_named() -> None:
    logits, soft, labels = example()
    with pytest.raises(ValueError, match="temperature is 0"):
        distillation_loss(logits, soft, labels, temperature=0.0, soft_weight=1.0, hard_weight=0.0)
    with pytest.raises(ValueError, match=r"soft targets of shape \[17, 4\]"):
        distillation_loss(logits, soft[:, :4], labels, temperature=1.0, soft_weight=1.0, hard_weight=0.0)
    with pytest.raises(ValueError, match="labels of shape None"):
        distillation_loss(logits, soft, None, temperature=1.0, soft_weight=1.0, hard_weight=1.0)
