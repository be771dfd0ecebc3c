"""Under bfloat16 autocast the last product keeps its digits, whatever calls it; without autocast nothing changes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.models.last_product import in_float32, is_rounded
from workers.models.stacking import stacked

CLASSES = 500


class WithEmbedding(nn.Module):
    """Its last product is with the embedding's weights, and no layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(CLASSES, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.layer(self.embedding((x.abs() * 100).long() % CLASSES).mean(1)))
        return hidden @ self.embedding.weight.t()


class Convolutions(nn.Module):
    """Ends in a convolution, and a mean over what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.layers(x.unsqueeze(1)).mean(-1), dim=-1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def ties(logits: Tensor) -> float:
    """The share of rows in which two classes are first."""
    top = logits.float().topk(2, dim=-1).values
    return float((top[:, 0] == top[:, 1]).float().mean())


@pytest.mark.parametrize("make", [mlp, lambda: nn.Linear(8, CLASSES), WithEmbedding, Convolutions])
@torch.no_grad()
def test_ties_vanish_and_float32_is_as_before(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    members, x = [make().eval() for _ in range(2)], torch.randn(20_000, 8)
    before = members[0](x)
    with torch.autocast("cpu", torch.bfloat16):
        assert ties(members[0](x)) > 0.01
        assert all(in_float32(member, x[:16]) for member in members)
        assert ties(members[0](x)) < 1e-4
        assert ties(stacked(members)(x[:5000])[0]) < 1e-3
        assert in_float32(members[0], x[:16])  # once more changes nothing
    assert torch.equal(members[0](x), before)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(mlp())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


@torch.no_grad()
def test_a_network_without_a_known_last_product_is_not_in_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not in_float32(Scripted().eval(), torch.randn(16, 8))
        assert not in_float32(nn.Identity(), torch.randn(16, 8))


def test_logits_that_bfloat16_could_hold_are_rounded() -> None:
    logits = torch.randn(4, 100)
    assert is_rounded(logits.to(torch.bfloat16)) and not is_rounded(logits)
