"""Generalists and specialists: the dustbin, its correction, the answer of all, and groups of confusable classes."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

from workers import mixture_weights, specialists
from workers.evaluation import confusable, mixture, worth
from workers.inference.reduce import Rule
from workers.models import checkpoints
from workers.models.outputs import Outputs
from workers.models.special import correction, with_dustbin
from workers.models.stacking import one_by_one, stacked
from workers.models.torch_module import build
from workers.specs.members import SpecialistRule
from workers.specs.models import ModelSpec, SpecialClasses
from workers.targets.member_mixture import MemberMixture

K = 7
SETS = [(0, 1, 2), (2, 3), (1, 2, 3, 4), (5, 6)]
NETS = """
import torch
from torch import nn
def net(classes=7):
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, classes))
class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 7)
    def forward(self, x):
        return {"logits": self.layer(x)}
"""


def drawn(members: int, rows: int = 200, scale: float = 3.0, classes: int = K) -> Tensor:
    draw = torch.Generator().manual_seed(members)
    return torch.softmax(scale * torch.randn(members, rows, classes, generator=draw, dtype=torch.float64), -1)


def objective(q: Any, generalist: Any, special: Any, sets: Any) -> float:
    """The part of the objective that depends on q, as the paper writes it."""
    found = -np.sum(generalist * np.log(q))
    for p, own in zip(special, sets, strict=True):
        rest = np.setdiff1d(np.arange(len(q)), own)
        found -= np.sum(p[list(own)] * np.log(q[list(own)])) + p[rest].sum() * np.log(q[rest].sum())
    return float(found)


def test_the_answer_minimises_the_divergences() -> None:
    p = drawn(5).numpy()
    answer = specialists.combined(*map(torch.from_numpy, (p[0], p[1:])), SETS).numpy()  # type: ignore[arg-type]
    np.testing.assert_allclose(answer.sum(axis=1), 1.0, rtol=1e-12)
    several = 0
    for n in range(40):
        on = [m for m, own in enumerate(SETS) if p[0, n].argmax() in own]
        several += len(on) > 1

        def loss(z: Any, n: int = n, on: Any = on) -> float:
            q = np.exp(z - z.max())
            return objective(q / q.sum(), p[0, n], [p[1 + m, n] for m in on], [SETS[m] for m in on])

        best = optimize.minimize(loss, np.log(p[0, n]), method="BFGS", options={"gtol": 1e-9})
        ours = objective(answer[n], p[0, n], [p[1 + m, n] for m in on], [SETS[m] for m in on])
        assert ours <= best.fun + 1e-8
        np.testing.assert_allclose(answer[n], np.exp(best.x) / np.exp(best.x).sum(), atol=2e-4)
    assert several > 10


def test_one_specialist_has_a_closed_form() -> None:
    p, own = drawn(2), [0, 1, 2]
    found = specialists.combined(p[0], p[1:], [own])
    rest = [3, 4, 5, 6]
    for n in range(len(found)):
        if int(p[0, n].argmax()) not in own:
            assert torch.equal(found[n], p[0, n])
            continue
        outside = (p[0, n, rest].sum() + p[1, n, rest].sum()) / 2
        torch.testing.assert_close(found[n, own], (p[0, n, own] + p[1, n, own]) / 2)
        torch.testing.assert_close(found[n, rest], outside * p[0, n, rest] / p[0, n, rest].sum())


def test_unlikely_others_keep_their_proportions() -> None:
    tiny = torch.tensor([[1.0, 1e-200, 3e-200]], dtype=torch.float64)
    p = torch.tensor([[[0.5, 0.25, 0.25]]], dtype=torch.float64)
    assert specialists.combined(tiny, p, [[0]])[0].tolist() == pytest.approx([0.75, 0.0625, 0.1875])
    nothing = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    assert specialists.combined(nothing, p, [[0]])[0].tolist() == pytest.approx([0.75, 0.125, 0.125])
    sure = torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64)
    assert specialists.combined(nothing, sure, [[0]])[0].tolist() == [1.0, 0.0, 0.0]


def test_no_bit_follows_from_the_order_of_members_or_from_other_examples() -> None:
    p = drawn(6)
    classes = [(), *SETS, ()]
    expected = specialists.answer(p, classes)
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 3, 5]):
        assert torch.equal(specialists.answer(p[order], [classes[k] for k in order]), expected)
    assert torch.equal(specialists.answer(p[:, 17:20], classes), expected[17:20])


def test_without_a_specialist_or_a_generalist_the_mean_answers() -> None:
    p = drawn(3)
    torch.testing.assert_close(specialists.answer(p, [(), (), ()]), p.mean(0))
    alone = specialists.answer(p[:1], [(0, 1)])
    torch.testing.assert_close(alone, torch.where(p[0].argmax(-1, keepdim=True) <= 1, alone, p[0]))
    assert bool((alone.argmax(-1) == p[0].argmax(-1)).all())


def test_the_dustbin_has_the_gradient_of_one_more_unit() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(20, K, generator=draw).requires_grad_()
    y = torch.randint(K, (20,), generator=draw)
    rest = torch.tensor([False, False, True, True, True, True, True])
    found = nn.functional.cross_entropy(with_dustbin(logits, rest), y, reduction="none")
    (of_network,) = torch.autograd.grad(found.sum(), logits)
    unit = torch.cat([logits[:, :2], logits[:, 2:].logsumexp(-1, keepdim=True)], 1)
    expected = nn.functional.cross_entropy(unit, y.clamp_max(2), reduction="none")
    (of_unit,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(of_network, of_unit)
    torch.testing.assert_close(found, expected + (y >= 2) * math.log(5))


def test_the_correction_undoes_the_sample() -> None:
    # of classes 0, 1, 2 with the odds 1 : 2 : 7, the first two are half of the sample
    sampled = torch.tensor([0.5 / 3, 1.0 / 3, 0.5]).log()
    added = correction(0.5, 0.3)
    found = torch.softmax(with_dustbin(sampled, torch.tensor([False, False, True]), added), -1)
    assert found.tolist() == pytest.approx([0.1, 0.2, 0.7])


@pytest.fixture
def nets(tmp_path: Any) -> Any:
    (tmp_path / "nets.py").write_text(NETS)
    return lambda **more: ModelSpec(factory="nets:net", folder=str(tmp_path), **more)


def own_of(*ids: int, added: float = 0.7) -> SpecialClasses:
    return SpecialClasses(classes=ids, correction=added, of=K)


def test_a_specialist_has_the_weights_of_its_generalist(nets: Any, tmp_path: Any) -> None:
    plain, special = build(nets(), 3), build(nets(special=own_of(1, 4)), 3)
    assert plain.state_dict().keys() == special.state_dict().keys()
    uri = str(tmp_path / "weights.safetensors")
    checkpoints.save(plain.state_dict(), uri)
    checkpoints.load(special, uri)
    x = torch.randn(9, 4)
    p, q = (torch.softmax(each.train()(x), -1) for each in (plain, special))
    torch.testing.assert_close(p[:, [1, 4]], q[:, [1, 4]])
    assert bool((q[:, [0, 2, 3, 5, 6]].std(dim=1) < 1e-6).all())
    corrected = torch.softmax(special.eval()(x), -1)
    odds = (1 - q[:, [1, 4]].sum(1)) / q[:, [1, 4]].sum(1) * math.exp(0.7)
    torch.testing.assert_close((1 - corrected[:, [1, 4]].sum(1)) / corrected[:, [1, 4]].sum(1), odds)
    assert torch.equal(copy.deepcopy(special)(x), special(x))


def test_specialists_are_stacked_each_with_its_own_classes(nets: Any) -> None:
    special = [own_of(0, 1), own_of(2, 3, 4, added=-0.4)]
    modules = [build(nets(special=each), k).eval() for k, each in enumerate(special)]
    x = torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(stacked(modules)(x), one_by_one(modules)(x))
        for mixed in ([*modules, build(nets(), 3).eval()], [build(nets(), 3).eval(), *modules]):
            with pytest.raises(ValueError, match="buffers"):
                stacked(mixed)


def test_a_network_may_return_a_mapping_and_its_layers(nets: Any, tmp_path: Any) -> None:
    spec = ModelSpec(factory="nets:Named", folder=str(tmp_path), special=own_of(2, 3))
    module, x = build(spec, 0), torch.randn(4, 4)
    plain = build(ModelSpec(factory="nets:Named", folder=str(tmp_path)), 0)
    rest = torch.tensor([True, True, False, False, True, True, True])
    torch.testing.assert_close(module(x)["logits"], with_dustbin(plain(x)["logits"], rest))
    wrong = build(nets(kwargs={"classes": 5}, special=own_of(2, 3)))
    assert wrong(x).shape == (4, 5)  # which `checked` explains


def test_the_key_changes_with_the_classes_alone(nets: Any) -> None:
    assert "special" not in nets().determining()
    found = [nets(special=own_of(*ids)).determining()["special"] for ids in ((0, 1), (0, 2))]
    assert found[0] != found[1] and found[0]["classes"] == [0, 1]


def test_soft_targets_and_evaluation_have_one_rule() -> None:
    logits = torch.randn(5, 30, K, generator=torch.Generator().manual_seed(1)) * 3
    rule = SpecialistRule(classes=((), *SETS))
    p = torch.softmax(logits.double(), -1)
    q = specialists.combined(p[0], p[1:], SETS)
    expected = torch.softmax(q.log() / 3.0, -1).float()
    names = [f"member-{k}" for k in range(5)]
    reduced = Rule("arithmetic", "float32", None, 3.0, rule, names)
    found = reduced.reduce(names, logits[:2].numpy(), logits[2:].numpy()).columns[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    fewer = reduced.reduce(["member-0", "member-3"], logits[[0, 3]].numpy()).columns[0]
    present = torch.tensor([[0.5, 0.0, 0.0, 0.5, 0.0]], dtype=torch.float64).repeat(30, 1)
    kept = MemberMixture(logits.transpose(0, 1), present, "arithmetic", 32, rule)
    assert torch.equal(kept.at(3.0).columns[0], fewer)
    measured = mixture.log_mean([each.log().numpy() for each in p], rule, "arithmetic")
    np.testing.assert_allclose(measured, q.log().numpy(), rtol=1e-9)
    assert mixture_weights.follows_from(rule) == {"specialists": [[], *map(list, SETS)]}


def test_the_worth_of_a_choice_is_that_of_its_own_answer() -> None:
    p = drawn(4, rows=90)
    y = p[0].argmax(-1).numpy()
    logs = [each.log().numpy().astype(np.float32) for each in p]
    rule = SpecialistRule(classes=((), *SETS[:3]))
    points = mixture.curve(logs, rule, "arithmetic", y).points
    whole = mixture.measure_mean(logs, rule, "arithmetic", y)
    assert points[-1].accuracy == pytest.approx(whole.accuracy) and points[-1].nll == pytest.approx(whole.mean_nll)
    assert points[-1].ece == pytest.approx(whole.ece)
    order = worth.greedy(logs, y, "arithmetic", rule)
    assert order[0] == 0 and sorted(order) == [0, 1, 2, 3]  # the labels are the generalist's answers
    blocks: Any = None
    found = worth.measure_worth(logs, order, "arithmetic", y, blocks, rule=rule)
    assert found.best[-1].mean_nll == pytest.approx(whole.mean_nll)
    without = mixture.measure_mean(logs[:3], rule.among([0, 1, 2]), "arithmetic", y)
    assert found.without[3].mean_nll == pytest.approx(without.mean_nll)


def blocks_of(sets: Any, classes: int, rows: int = 3000) -> Any:
    """Log-probabilities of a generalist that confuses the classes of a set."""
    draw = np.random.default_rng(0)
    of = {k: own for own in sets for k in own}
    p = np.full((rows, classes), 1e-3)
    for n, k in enumerate(draw.integers(0, classes, rows)):
        p[n, list(of[k])] = draw.dirichlet(np.full(len(of[k]), 0.5))
    return np.log(p / p.sum(1, keepdims=True)).astype(np.float32)


def test_confused_classes_are_grouped() -> None:
    sets = ((0, 3, 7), (1, 8), (2, 4, 5, 9), (6, 10))
    logs = blocks_of(sets, 11)
    of = confusable.covariance([logs, logs])
    np.testing.assert_allclose(of, np.cov(np.exp(logs.astype(np.float64)), rowvar=False, bias=True), atol=1e-12)
    assert confusable.groups(of, 4, seed=0) == sets == confusable.groups(of, 4, seed=5)


def test_no_group_is_small_and_each_class_is_in_one() -> None:
    for number in (2, 3, 5):
        for of in (np.eye(11), np.zeros((11, 11)), confusable.covariance([blocks_of((range(11),), 11, 50)])):
            found = confusable.groups(of, number, seed=1)
            assert found == confusable.groups(of, number, seed=1)
            assert len(found) == number and min(map(len, found)) >= 2
            assert sorted(k for group in found for k in group) == list(range(11))
    for number in (1, 6):
        with pytest.raises(ValueError, match="expected 2 to 5"):
            confusable.groups(np.eye(11), number, seed=0)


def test_outputs_of_a_specialist_are_logits(nets: Any) -> None:
    from workers.models.torch_module import TorchPredictor

    x = torch.randn(40, 4)
    module = build(nets(special=own_of(0, 5)), 1).eval()
    with torch.no_grad():
        expected = module(x)
        predictor = TorchPredictor(module)
        assert predictor.prepare(x, torch.device("cpu"), "bfloat16") or predictor.whole
        found = predictor(x, "bfloat16")
    assert isinstance(found, Outputs) and found.logits.dtype == torch.float32
    assert float((torch.softmax(found.logits, -1) - torch.softmax(expected, -1)).abs().max()) < 0.02
