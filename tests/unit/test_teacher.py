"""A teacher: the same sum however its members are laid out, and no answer that is no number."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workers import ensemble
from workers.data.arrays import as_tensor, gather, widened
from workers.errors import RunError
from workers.faults import Fault
from workers.inference import teacher
from workers.inference.teacher import Asked, Teacher
from workers.models.packing import PackedLinear

X = torch.randn(50, 8)
WEIGHTS = {"a": 0.2, "b": 0.3, "c": 0.5}


def modules() -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for seed, name in enumerate(WEIGHTS):
        torch.manual_seed(seed)
        made[name] = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return made


def answered(one: Teacher, x: Tensor, *, known: Mapping[str, Tensor] = {}, **how: Any) -> Tensor:
    """The answer to one piece."""
    (total,) = one.soften_all([Asked(x, known)], **how)
    return total


def soften(one: Teacher, combine: str = "arithmetic") -> Tensor:
    return answered(one, X, temperature=2.0, weights=WEIGHTS, combine=combine)


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
    monkeypatch.setattr(teacher, "_staying", lambda modules, device: frozenset({"b"}))
    waves = Teacher(modules())
    waves.prepare(True, X)  # there is nothing to stack where members come and go
    assert waves.takes_turns and torch.equal(soften(waves), together)


def test_members_that_take_turns_go_once_for_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[nn.Module] = []
    move = teacher.moved

    def moved_and_counted(module: nn.Module, device: torch.device) -> AbstractContextManager[None]:
        moved.append(module)
        return move(module, device)

    monkeypatch.setattr(teacher, "moved", moved_and_counted)
    monkeypatch.setattr(teacher, "_staying", lambda modules, device: frozenset({"b"}))
    waves, resident = Teacher(modules(), micro_batch=8), modules()
    pieces = [X[:20], X[20:40], X[40:]]
    found = waves.soften_all([Asked(x) for x in pieces], temperature=2.0, weights=WEIGHTS, combine="arithmetic")
    assert len(moved) == 2 and all(p.device.type == "cpu" for module in moved for p in module.parameters())
    monkeypatch.undo()
    for x, total in zip(pieces, found, strict=True):
        expected = answered(Teacher(resident, micro_batch=8), x, temperature=2.0, weights=WEIGHTS, combine="arithmetic")
        assert torch.equal(total, expected)


def test_as_many_members_stay_on_the_device_as_fit_beside_a_place_for_the_others() -> None:
    sizes = {"a": 4, "b": 4, "c": 4, "d": 2}
    assert teacher._fitting(sizes, 14) == {"a", "b", "c", "d"}
    assert teacher._fitting(sizes, 13) == {"a", "b"}
    assert teacher._fitting(sizes, 10) == {"a", "d"}
    assert teacher._fitting(sizes, 3) == frozenset()


def test_where_memory_does_not_suffice_members_take_turns_and_no_bit_changes() -> None:
    class Hungry(nn.Linear):
        full = True

        def forward(self, x: Tensor) -> Tensor:
            if Hungry.full:
                Hungry.full = False
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return super().forward(x)

    nets = {**modules(), "b": Hungry(8, 4)}
    Hungry.full = False
    expected = soften(Teacher(nets))
    Hungry.full, one = True, Teacher(nets)
    assert torch.equal(soften(one), expected) and one.takes_turns


class Raises(nn.Linear):
    """Raises what it is told."""

    error: Exception

    def forward(self, x: Tensor) -> Tensor:
        raise Raises.error


@pytest.mark.parametrize("error", [RuntimeError("a fault"), torch.OutOfMemoryError("a fault")])
def test_what_a_member_raises_names_it(error: Exception) -> None:
    Raises.error = error
    with pytest.raises(Fault, match=f"^{type(error).__name__}: a fault") as raised:
        soften(Teacher({**modules(), "b": Raises(8, 4)}))
    assert raised.value.of == "b"


def test_a_gpu_that_torch_does_not_see_is_no_gpu_to_compute_on() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match=r"torch sees no CUDA on .*num_gpus: 0"):
        Teacher(modules(), device=torch.device("cuda"))


def test_packed_it_is_the_same_to_rounding_and_the_same_bits_in_any_company() -> None:
    def prepared(*seeds: int) -> Tensor:
        nets = {}
        for seed in seeds:
            torch.manual_seed(seed)
            nets[f"member-{seed}"] = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 4))
        one = Teacher(nets)
        plain = answered(one, X, temperature=2.0, weights=dict.fromkeys(nets, 0.5), combine="arithmetic")
        assert one.prepare(None, X) is False and any(isinstance(m, PackedLinear) for m in nets_of(one))
        found = answered(one, X, temperature=2.0, weights=dict.fromkeys(nets, 0.5), combine="arithmetic")
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
    with pytest.raises(RunError, match=r"^b answers NaN or infinity; expected .* Check its weights"):
        soften(one)


@pytest.mark.parametrize("choice", [None, True])
@pytest.mark.parametrize("width", [24, 64, 300])
def test_on_a_cpu_no_bit_follows_from_which_members_share_a_teacher(
    width: int, choice: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last micro-batch of 69 rows has five; whatever a timing says must not matter either."""
    monkeypatch.setattr(teacher, "worth_stacking", lambda *_: True)
    x, names = torch.randn(69, 20, generator=torch.Generator().manual_seed(0)), [f"member-{k}" for k in range(20)]

    def made_by(*actors: list[str]) -> Tensor:
        total = torch.zeros(69, 4, dtype=torch.int32)
        for hosted in actors:
            nets = {}
            for name in hosted:
                torch.manual_seed(names.index(name))
                nets[name] = nn.Sequential(
                    nn.Linear(20, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
                )
            one = Teacher(nets, micro_batch=64)
            assert one.prepare(choice, x) is False
            total += answered(one, x, temperature=2.0, weights=dict.fromkeys(hosted, 0.05), combine="arithmetic")
        return total

    together = made_by(names)
    assert torch.equal(made_by(*([name] for name in names)), together)
    assert torch.equal(made_by(names[:13], names[13:]), together)
    assert torch.equal(made_by(names[::2], names[1::2]), together)


def test_in_bfloat16_a_teachers_answers_keep_their_digits() -> None:
    torch.manual_seed(0)
    nets: dict[str, nn.Module] = {"a": nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 500))}
    x = torch.randn(5000, 8)

    def ties(one: Teacher) -> float:
        total = answered(one, x, temperature=1.0, weights={"a": 1.0}, combine="arithmetic")
        top = total.topk(2, dim=-1).values
        return float((top[:, 0] == top[:, 1]).double().mean())

    cpu = torch.device("cpu")
    one = Teacher(nets, "bfloat16", device=cpu)
    assert ties(one) > 0.01
    one.prepare(None, x)
    assert ties(one) < 1e-4 and not one._whole


def test_a_member_without_a_known_last_product_is_computed_in_float32() -> None:
    class Script(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.jit.script(nn.Linear(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y

    nets: dict[str, nn.Module] = {"a": Script()}
    one = Teacher(nets, "bfloat16", device=torch.device("cpu"))
    one.prepare(None, X)
    found = answered(one, X, temperature=1.0, weights={"a": 1.0}, combine="arithmetic")
    whole = answered(Teacher(nets, "float32"), X, temperature=1.0, weights={"a": 1.0}, combine="arithmetic")
    assert torch.equal(found, whole)


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_what_is_sent_narrow_is_what_models_take(kind: str) -> None:
    rows = np.arange(12).reshape(3, 4).astype(kind)
    narrow, wide = as_tensor(rows, narrow=True), as_tensor(rows)
    assert torch.equal(widened(narrow), wide) and widened(narrow).dtype == wide.dtype
    assert narrow.nbytes <= max(rows.nbytes, 12) or kind in ("float64", "bool")
    assert torch.equal(gather(rows, np.array([2, 0]), narrow=True), narrow[[2, 0]])
    assert widened(wide) is wide  # on a CPU nothing is copied once more


def test_a_probe_of_a_network_that_ends_in_a_softmax_is_what_it_returns() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.Softmax(-1))
    found = Teacher({"a": net}).probe(X)["a"]
    np.testing.assert_allclose(found, net(X).detach().numpy(), atol=1e-6)
