"""Weights of each example: the rules against their formulas, for any order of the members and any that are present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.makers import write_config
from tests.unit.test_teacher import X, answered, modules
from workers import ensemble, mixture_weights
from workers.errors import RequestError
from workers.evaluation import mixture
from workers.inference.reduce import Rule
from workers.inference.teacher import Teacher
from workers.specs.base import FactorySpec
from workers.targets.member_mixture import MemberMixture

FACTORS = """
def first(probabilities, share=1.0):
    weights = probabilities.new_full(probabilities.shape[:2], 1 - share)
    weights[0] += share
    return weights
def surest(probabilities):
    return probabilities.amax(-1) ** 2
def raises(probabilities):
    raise ZeroDivisionError("no")
def leaves(probabilities):
    raise SystemExit(3)
def flat(probabilities):
    return probabilities.sum()
def negative(probabilities):
    return probabilities[..., 0] - 1
def nothing(probabilities):
    return probabilities[..., 0] * 0
"""


def drawn(members: int = 5, rows: int = 40, classes: int = 7, scale: float = 3.0) -> Tensor:
    draw = torch.Generator().manual_seed(members)
    return torch.softmax(scale * torch.randn(members, rows, classes, generator=draw, dtype=torch.float64), -1)


def own(folder: Path, name: str, **kwargs: Any) -> FactorySpec:
    Path(folder, "factors.py").write_text(FACTORS)
    return FactorySpec(factory=f"factors:{name}", kwargs=kwargs, folder=str(folder))


def in_numpy(name: str, p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = np.empty(p.shape[:2])
    for m in range(len(p)):
        for n in range(p.shape[1]):
            q, mean = p[m, n], p[:, n].mean(axis=0)
            found[m, n] = np.exp(np.sum(q * np.log(q)) if name == "entropy" else -np.sum(q * np.log(q / mean)))
    return found / found.sum(axis=0)


@pytest.mark.parametrize("name", mixture_weights.RULES)
def test_a_rule_is_its_formula(name: Any) -> None:
    p = drawn()
    found = mixture_weights.of_examples(name, p).numpy()
    np.testing.assert_allclose(found, in_numpy(name, p.numpy()), rtol=1e-9)
    np.testing.assert_allclose(found.sum(axis=0), 1.0, rtol=1e-12)


@pytest.mark.parametrize("combine", ensemble.COMBINES)
@pytest.mark.parametrize("name", mixture_weights.RULES)
def test_no_bit_follows_from_the_order_of_the_members(name: Any, combine: str) -> None:
    p = drawn().float()
    expected = mixture_weights.mean(name, p, combine)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert torch.equal(mixture_weights.mean(name, p[order], combine), expected)


def test_extreme_answers_have_weights() -> None:
    p = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[1 / 3, 1 / 3, 1 / 3]]])
    for name in ("entropy", "agreement"):
        found = mixture_weights.of_examples(name, p)  # type: ignore[arg-type]
        assert torch.isfinite(found).all() and (found > 0).all()
    assert mixture_weights.of_examples("entropy", p)[:, 0].tolist() == pytest.approx([3 / 7, 3 / 7, 1 / 7])
    alike = p[[0, 0, 1]]
    first, second, third = mixture_weights.of_examples("agreement", alike)[:, 0].tolist()
    assert first == second > 1.9 * third  # a member that disagrees with the others counts half


@pytest.mark.parametrize("name", mixture_weights.RULES)
def test_absent_members_have_no_weight_and_no_say(name: Any) -> None:
    p = drawn()
    present = torch.ones(5, 40, dtype=torch.bool)
    present[1, :20] = present[3, 10:30] = False
    found = mixture_weights.of_examples(name, p, present)
    assert (found[~present] == 0).all()
    for n in range(40):
        here = present[:, n].nonzero().squeeze(1)
        assert torch.equal(found[here, n], mixture_weights.of_examples(name, p[here][:, n : n + 1])[:, 0])


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    p = drawn()
    assert torch.equal(mixture_weights.mean(own(tmp_path, "first"), p.float(), "arithmetic"), p[0].float())
    weights = mixture_weights.of_examples(own(tmp_path, "surest"), p)
    np.testing.assert_allclose(weights * (p.amax(-1) ** 2).sum(0), p.amax(-1) ** 2, rtol=1e-12)
    assert mixture_weights.follows_from("entropy") == "entropy"
    some, other = (mixture_weights.follows_from(own(tmp_path, "first", share=share)) for share in (0.5, 1.0))
    assert some != other and some["code"] == other["code"]


WRONG = {
    "raises": "ZeroDivisionError: no",
    "leaves": "SystemExit: 3",
    "flat": r"returned \[\]",
    "negative": "below 0",
    "nothing": "0 for all",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_rule_may_not_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=f"(?s)ensemble.weights: .*{WRONG[name]}"):
        mixture_weights.try_out(own(tmp_path, name))


@pytest.mark.parametrize("combine", ensemble.COMBINES)
@pytest.mark.parametrize("name", mixture_weights.RULES)
def test_teachers_answers_come_to_the_mean_however_they_are_hosted(name: Any, combine: str) -> None:
    nets = modules()
    shares = dict.fromkeys(nets, 1 / len(nets))
    with torch.no_grad():
        logits = {each: net(X) for each, net in nets.items()}
    softened = torch.softmax(torch.stack(list(logits.values())) / 2.0, -1)
    expected = mixture_weights.mean(name, softened, combine)
    rule = Rule(combine, "float32", None, 2.0, name)
    together = answered(Teacher(nets, micro_batch=16), X, temperature=2.0, weights=shares, combine=None)
    assert together.shape == (len(nets), len(X), logits["a"].shape[1])
    found = rule.reduce(list(nets), together.numpy())
    torch.testing.assert_close(found.columns[0], expected, rtol=1e-6, atol=1e-7)
    each = [
        answered(
            Teacher({one: net}, micro_batch=16), X, temperature=2.0, weights={one: shares[one]}, combine=None
        ).numpy()
        for one, net in reversed(nets.items())
    ]
    assert torch.equal(rule.reduce([*nets][::-1], *each).columns[0], found.columns[0])
    known = answered(
        Teacher(nets, micro_batch=16), X, temperature=2.0, weights=shares, combine=None, known={"a": together[0]}
    )
    assert torch.equal(known, together)
    present = torch.full((len(X), len(nets)), 1 / len(nets), dtype=torch.float64)
    kept = MemberMixture(together.transpose(0, 1), present, combine, 32, name)
    assert torch.equal(kept.at(2.0).columns[0], found.columns[0])


@pytest.mark.parametrize("combine", ensemble.COMBINES)
@pytest.mark.parametrize("name", mixture_weights.RULES)
def test_the_ensemble_is_measured_by_the_same_weights(name: Any, combine: str) -> None:
    p = drawn(rows=200)
    labels = np.arange(200) % 7
    logs = [np.log(each.numpy()).astype(np.float32) for each in p]
    found = mixture.log_mean(logs, name, combine)
    expected = ensemble.average(p, torch.from_numpy(in_numpy(name, p.numpy())), combine)
    np.testing.assert_allclose(np.exp(found), expected.numpy(), atol=2e-6)
    whole = mixture.curve(logs, name, combine, labels).points[-1]
    of_mean = mixture.measure_mean(logs, name, combine, labels)
    assert whole.accuracy == of_mean.accuracy and whole.nll == pytest.approx(of_mean.mean_nll, rel=1e-9)
    assert [point.members for point in mixture.curve(logs, name, combine, labels).points] == [1, 2, 3, 4, 5]
    for point in mixture.curve(logs[:1] * 3, name, combine, labels).points:  # equal members: equal weights
        assert point.nll == pytest.approx(mixture.measure_mean(logs[:1], [1.0], combine, labels).mean_nll)


def test_the_configuration_names_a_rule(tmp_path: Path) -> None:
    from orchestrator.config.run_config import RunConfig

    own(tmp_path, "surest")
    file = str(write_config(tmp_path))
    assert RunConfig.load(file).ensemble.of_examples is None
    assert RunConfig.load(file, ["ensemble.weights=entropy"]).ensemble.of_examples == "entropy"
    rule = RunConfig.load(file, ["ensemble.weights={factory: 'factors:surest'}"]).ensemble.of_examples
    assert isinstance(rule, FactorySpec) and rule.folder == str(tmp_path)
    for wrong in ("entropies", "{factory: surest}", "[1, entropy]"):
        with pytest.raises(RequestError, match=r"ensemble\.weights"):
            RunConfig.load(file, [f"ensemble.weights={wrong}"])
