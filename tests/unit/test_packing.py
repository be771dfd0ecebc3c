"""Packed layers: the same answers, each time the same bits, and the plain module where they cannot stand for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from workers.models.packing import PackedLinear, packed

X = torch.randn(64, 200, generator=torch.Generator().manual_seed(0))


def net(*, width: int = 300) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(200, width), nn.ReLU(), nn.Sequential(nn.Linear(width, width), nn.GELU()), nn.Linear(width, 5)
    )


@torch.no_grad()
def test_large_layers_are_packed_and_answer_the_same() -> None:
    plain = net()
    other = packed(plain, X)
    assert [type(m) for m in other.modules() if isinstance(m, nn.Linear | PackedLinear)] == [
        PackedLinear,
        PackedLinear,
        nn.Linear,
    ]
    torch.testing.assert_close(other(X), plain(X), rtol=1e-5, atol=1e-5)
    assert torch.equal(other(X), packed(net(), X)(X)) and torch.equal(other(X), other(X))
    torch.testing.assert_close(
        other(X)[:10], other(X[:10]), rtol=1e-5, atol=1e-5
    )  # a few rows may be added up otherwise
    assert all(type(m) is not PackedLinear for m in plain.modules())  # the module itself is as it was


@torch.no_grad()
def test_layers_over_sequences_are_packed() -> None:
    x = torch.randn(4, 200, 7).transpose(1, 2)  # and lie in memory as they like
    other = packed(net(), x)
    assert isinstance(other[0], PackedLinear)  # type: ignore[index]
    torch.testing.assert_close(other(x), net()(x), rtol=1e-5, atol=1e-5)


class Tied(nn.Module):
    """Uses its layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(200, 200)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) @ self.layer.weight.t()


class Adapted(nn.Linear):
    """A layer that is more than its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


@pytest.mark.parametrize("make", [Tied, lambda: net().double()])
def test_what_packing_cannot_stand_for_stays_as_it_is(make: Callable[[], nn.Module]) -> None:
    module = make()
    other = packed(module, X.to(next(module.parameters()).dtype))
    assert not any(isinstance(m, PackedLinear) for m in other.modules())


@torch.no_grad()
def test_a_layer_of_another_class_is_left_alone() -> None:
    module = nn.Sequential(Adapted(200, 200), nn.Linear(200, 200))
    other = packed(module, X)
    assert type(other[0]) is Adapted and type(other[1]) is PackedLinear  # type: ignore[index]
    torch.testing.assert_close(other(X), module(X), rtol=1e-5, atol=1e-5)
