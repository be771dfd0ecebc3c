"""A teacher: the same sum however its members are laid out, and no answer that is no number."""

import pytest
import torch
from torch import Tensor, nn

from workers import ensemble, teacher
from workers.errors import RunError
from workers.packing import PackedLinear
from workers.teacher import Teacher

X = torch.randn(50, 8)
WEIGHTS = {"a": 0.2, "b": 0.3, "c": 0.5}


def modules() -> dict[str, nn.Module]:
    made = {}
    for seed, name in enumerate(WEIGHTS):
        torch.manual_seed(seed)
        made[name] = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return made


def soften(one: Teacher, combine: str = "arithmetic") -> Tensor:
    return one.soften(X, temperature=2.0, weights=WEIGHTS, combine=combine)


@pytest.mark.parametrize("combine", ensemble.COMBINES)
def test_it_answers_with_the_members_weighted_mean(combine: str) -> None:
    total = soften(Teacher(modules(), micro_batch=16), combine)
    assert total.dtype == torch.int32
    each = [torch.softmax(module(X).detach() / 2.0, -1) for module in modules().values()]
    expected = ensemble.average(each, list(WEIGHTS.values()), combine)
    torch.testing.assert_close(ensemble.mean(total, combine).float(), expected, atol=1e-6, rtol=1e-5)


def test_apart_or_together_or_in_waves_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    together = soften(Teacher(modules()))
    apart = torch.zeros_like(together)
    for name, module in modules().items():
        apart += soften(Teacher({name: module}))
    assert torch.equal(together, apart)
    monkeypatch.setattr(teacher, "_fit", lambda modules, device: False)
    waves = Teacher(modules())
    waves.prepare(True, X)  # there is nothing to stack where members come and go
    assert not waves.resident and torch.equal(soften(waves), together)


def test_stacked_it_is_the_same_to_rounding() -> None:
    one = Teacher(modules())
    alone = soften(one)
    assert one.prepare(True, X) is True
    apart = (soften(one) - alone).abs().max().item() / 2**30
    assert apart < 1e-6
    assert one.prepare(False, X) is False and torch.equal(soften(one), alone)


def test_packed_it_is_the_same_to_rounding_and_the_same_bits_in_any_company() -> None:
    def prepared(*seeds: int) -> Tensor:
        nets = {}
        for seed in seeds:
            torch.manual_seed(seed)
            nets[f"member-{seed}"] = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 4))
        one = Teacher(nets)
        plain = one.soften(X, temperature=2.0, weights=dict.fromkeys(nets, 0.5), combine="arithmetic")
        assert one.prepare(None, X) is False and any(isinstance(m, PackedLinear) for m in nets_of(one))
        found = one.soften(X, temperature=2.0, weights=dict.fromkeys(nets, 0.5), combine="arithmetic")
        assert (found - plain).abs().max().item() / 2**30 < 1e-6
        return found

    assert torch.equal(prepared(0, 1), prepared(0) + prepared(1))


def nets_of(one: Teacher) -> list[nn.Module]:
    return [m for module in one.modules.values() for m in module.modules()]


@pytest.mark.parametrize("stack", [True, False])
def test_nan_is_named(stack: bool) -> None:
    broken = modules()
    with torch.no_grad():
        next(broken["b"].parameters()).fill_(float("nan"))
    one = Teacher(broken)
    one.prepare(stack, X)
    with pytest.raises(RunError, match=r"^b answers NaN"):
        soften(one)
