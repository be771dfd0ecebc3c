"""Stacked members answer as each alone; what cannot be stacked, or gains nothing, is not."""

import pytest
import torch
from torch import Tensor, nn

from workers.models import stacking
from workers.models.stacking import one_by_one, stacked, worth_stacking


def members(count: int = 4) -> list[nn.Module]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 5))
        made.append(layers.eval())
    return made


def test_stacked_and_single_agree() -> None:
    x = torch.randn(100, 8)
    one, all_ = one_by_one(members())(x), stacked(members())(x)
    assert one.shape == all_.shape == (4, 100, 5)
    torch.testing.assert_close(one.softmax(-1), all_.softmax(-1), atol=1e-6, rtol=0)
    assert one_by_one(members(1))(x).shape == (1, 100, 5)


class Moody(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_what_cannot_be_stacked_or_is_alone_is_not() -> None:
    x = torch.randn(16, 8)
    assert not worth_stacking([Moody(), Moody()], x)
    assert not worth_stacking(members(1), x)
    assert not worth_stacking([nn.Linear(8, 2), nn.Linear(8, 3)], x)


def test_only_what_is_faster_and_right_is_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(16, 8)
    same = [Scale().eval() for _ in range(3)]  # the same bits either way

    def takes(single_s: float, together_s: float) -> None:
        times = iter([single_s, together_s])
        monkeypatch.setattr(stacking, "_seconds", lambda forward, x: next(times))

    takes(2.0, 1.0)
    assert worth_stacking(same, x)
    takes(1.0, 1.0)
    assert not worth_stacking(same, x)
    takes(2.0, 1.0)
    monkeypatch.setattr(stacking, "stacked", lambda modules: lambda x: one_by_one(modules)(x) + torch.randn(3, 16, 8))
    assert not worth_stacking(same, x)


@torch.no_grad()
def test_in_the_precision_of_the_pass_it_is_timed_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding apart is no reason against it, and what is timed runs under the pass's autocast."""
    x, seen = torch.randn(64, 8), []

    def seconds(forward: stacking.Forward, x: Tensor) -> float:
        seen.append(torch.is_autocast_enabled("cpu"))
        return 3.0 - len(seen)

    monkeypatch.setattr(stacking, "_seconds", seconds)
    with torch.autocast("cpu", torch.bfloat16):
        assert worth_stacking(members(), x)
        assert seen == [True] * 2
        monkeypatch.setattr(stacking, "stacked", lambda modules: lambda x: one_by_one(modules)(x) * 1.5)
        assert not worth_stacking(members(), x)
