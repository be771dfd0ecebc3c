"""Terms on feature maps of convolutional networks, by their definitions in plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from orchestrator.cli.command import main
from tests.makers import write_config
from workers.errors import RequestError
from workers.losses import TERMS, Batch, Outputs, Term
from workers.signals import Signal

B, H, W = 4, 3, 2


def maps(channels: int, seed: int, size: tuple[int, int] = (H, W)) -> Outputs:
    draw = torch.Generator().manual_seed(seed)
    states = tuple(torch.randn(B, channels, *size, generator=draw, dtype=torch.float64) for _ in range(2))
    return Outputs(torch.zeros(B, 3, dtype=torch.float64), states)


def prepared(name: str, student: Outputs, teacher: Outputs, **settings: Any) -> Term:
    term = TERMS[name](**settings)
    term.prepare(student, teacher)
    if term.module is not None:
        term.module.double()
    return term


def value_of(term: Term, student: Outputs, teacher: Outputs) -> float:
    total, count = term(student, Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=teacher))
    return total.item() / count


def test_attention_transfer_compares_where_channels_are_active_whatever_their_number() -> None:
    student, teacher = maps(5, 0), maps(8, 1)

    def attention(of: Tensor) -> np.ndarray:
        energy = np.array([[float(sum(c**2 for c in of[:, i, j])) / len(of) for j in range(W)] for i in range(H)])
        return energy / np.linalg.norm(energy)

    expected = np.mean([
        np.sum((attention(a) - attention(b)) ** 2)
        for a, b in zip(student.hidden_states[-1], teacher.hidden_states[-1], strict=True)
    ])  # fmt: skip
    term = prepared("attention_transfer", student, teacher)
    assert value_of(term, student, teacher) == pytest.approx(expected, rel=1e-6) and term.module is None
    assert value_of(term, student, student) == pytest.approx(0.0, abs=1e-12)


def test_channel_kl_compares_the_places_of_each_channel() -> None:
    student, teacher, t = maps(5, 0), maps(5, 1), 3.0
    expected = 0.0
    for a, b in zip(student.hidden_states[-1], teacher.hidden_states[-1], strict=True):
        for own, other in zip(a, b, strict=True):
            q, p = (torch.softmax(each.flatten() / t, 0) for each in (own, other))
            expected += t**2 * float((p * (p / q).log()).sum()) / 5 / B
    term = prepared("channel_kl", student, teacher, temperature=t)
    assert value_of(term, student, teacher) == pytest.approx(expected, rel=1e-6)
    wide = maps(8, 1)
    projected = prepared("channel_kl", student, wide)
    assert [tuple(p.shape) for p in projected.module.parameters()] == [(8, 5), (8,)]
    assert value_of(projected, student, wide) > 0.0


def test_hints_are_squared_distances_at_each_place_and_larger_maps_are_averaged() -> None:
    student, teacher = maps(5, 0), maps(5, 1, (2 * H, 2 * W))
    pooled = functional.avg_pool2d(teacher.hidden_states[-1], 2)
    expected = float((student.hidden_states[-1] - pooled).square().mean())
    assert value_of(prepared("hidden_mse", student, teacher), student, teacher) == pytest.approx(expected, rel=1e-6)


def test_terms_of_relations_between_examples_are_their_formulas() -> None:
    student, teacher = maps(5, 0), maps(8, 1)
    one, other = ([state.mean((1, 2)).numpy() for state in of.hidden_states[-1]] for of in (student, teacher))

    def distances(of: list[np.ndarray]) -> np.ndarray:
        found = np.array([np.linalg.norm(of[i] - of[j]) for i in range(B) for j in range(i + 1, B)])
        return found / found.mean()

    def angles(of: list[np.ndarray]) -> np.ndarray:
        unit = [[(b - a) / n if (n := np.linalg.norm(b - a)) > 0 else b - a for b in of] for a in of]
        return np.array([[[float(x @ y) for y in each] for x in each] for each in unit])

    for name, relations in (("relational_distance", distances), ("relational_angle", angles)):
        gap = np.abs(relations(one) - relations(other))
        expected = np.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()
        term = prepared(name, student, teacher)
        assert value_of(term, student, teacher) == pytest.approx(expected, rel=1e-5)
        assert value_of(term, student, student) == pytest.approx(0.0, abs=1e-12)
        alone = [Outputs(of.logits[:1], tuple(state[:1] for state in of.hidden_states)) for of in (student, teacher)]
        total, _ = term(alone[0], Batch(torch.zeros(1).long(), None, 1, 1, examples=1, beside=alone[1]))
        assert total.item() == 0.0


@pytest.mark.parametrize("name", ["attention_transfer", "channel_kl", "relational_distance", "relational_angle"])
def test_the_gradient_leads_to_the_teacher(name: str) -> None:
    student, teacher = maps(5, 0), maps(5, 1)
    states = student.hidden_states[-1].clone().requires_grad_()
    term = prepared(name, student, teacher)
    batch = Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=teacher)
    for _ in range(200):
        total, count = term(Outputs(student.logits, (states, states)), batch)
        (gradient,) = torch.autograd.grad(total / count, states)
        states = (states - 2.0 * gradient).detach().requires_grad_()
    assert torch.isfinite(states).all() and total.item() / count < 0.5 * value_of(term, student, teacher)


@pytest.mark.parametrize("name", sorted(name for name, term in TERMS.items() if Signal.HIDDEN_STATES in term.needs))
def test_places_of_volumes_are_those_of_maps(name: str) -> None:
    """A volume [B, C, D, H, W] is a map whose places lie otherwise, also where one is averaged to the smaller size."""

    def as_volume(of: Outputs) -> Outputs:
        return of._replace(hidden_states=tuple(state.unflatten(2, (1, -1)) for state in of.hidden_states))

    student = maps(5, 0)
    for teacher in (maps(5, 1), maps(5, 1, (2 * H, 2 * W))):
        flat, volume = (
            value_of(prepared(name, *both), *both)
            for both in ((student, teacher), (as_volume(student), as_volume(teacher)))
        )
        assert volume == pytest.approx(flat, rel=1e-9) and flat > 0


@pytest.mark.parametrize("rounding", [0.0, 1e-9])
@pytest.mark.parametrize("name", ["relational_distance", "relational_angle"])
def test_examples_at_one_place_have_no_direction(name: str, rounding: float) -> None:
    """The student sees two examples as one, and the teacher does not: their gradient is of the size of the others."""
    student, teacher = maps(5, 0), maps(5, 1)
    same = student.hidden_states[-1].clone()
    same[1] = same[0] + rounding

    def gradient_of(states: Tensor) -> float:
        term, found = prepared(name, student, teacher), states.clone().requires_grad_()
        batch = Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=teacher)
        (gradient,) = torch.autograd.grad(term(Outputs(student.logits, (found, found)), batch)[0], found)
        return float(gradient.abs().max())

    assert 0 < gradient_of(same) < 10 * gradient_of(student.hidden_states[-1])


LENGTHS = [3, 2, 3, 1]
PADDED = torch.arange(3)[None] < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("name", ["attention_transfer", "channel_kl", "relational_distance", "relational_angle"])
def test_padding_does_not_count(name: str) -> None:
    """Sequences of one to three elements: other values in their padding change nothing."""
    draw = torch.Generator().manual_seed(3)
    states = [torch.randn(B, 3, 4, generator=draw) for _ in range(2)]

    def value(of: list[Tensor]) -> float:
        student, teacher = (Outputs(torch.zeros(B, 3), (each,), mask=PADDED) for each in of)
        term = TERMS[name]()
        term.prepare(student, teacher)
        total, count = term(student, Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=teacher))
        return total.item() / count

    other = [each.clone() for each in states]
    for each in other:
        each[1, 2] += 7.0
    assert value(states) == pytest.approx(value(other), rel=1e-6) and value(states) > 1e-6
    unpadded = [each.clone() for each in states]
    unpadded[0][1, 1] += 7.0
    assert value(unpadded) != pytest.approx(value(states), rel=1e-3)


@pytest.mark.parametrize("name", ["attention_transfer", "relational_distance", "relational_angle"])
def test_terms_without_a_projection_take_none(name: str) -> None:
    with pytest.raises(TypeError, match="project"):
        TERMS[name](project=True)


def test_relations_of_a_map_and_a_vector() -> None:
    vectors = Outputs(torch.zeros(B, 3), (torch.randn(B, 6, dtype=torch.float64),))
    assert value_of(prepared("relational_distance", maps(5, 0), vectors), maps(5, 0), vectors) > 0.0


def test_sequences_that_happen_to_have_one_element_are_sequences() -> None:
    """As the rows that the terms are settled on may have, where lengths differ."""
    short = Outputs(torch.zeros(B, 3), (torch.randn(B, 1, 4),), mask=torch.ones(B, 1, dtype=torch.bool))
    assert value_of(prepared("attention_transfer", short, short), short, short) == 0.0
    with pytest.raises(RequestError, match="has a single state for each example"):
        prepared("attention_transfer", short._replace(mask=None), short._replace(mask=None))


def test_what_cannot_be_compared() -> None:
    vectors = Outputs(torch.zeros(B, 3), (torch.randn(B, 5),))
    with pytest.raises(RequestError, match="has a single state for each example"):
        prepared("attention_transfer", vectors, vectors)
    with pytest.raises(RequestError, match="`temperature: 0`"):
        TERMS["channel_kl"](temperature=0)


def test_relations_of_a_whole_batch_need_one_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objective = {"objective": [{"term": "soft"}, {"term": "relational_distance"}]}
    for change, expected in (
        ({"student__num_workers": 2}, "student.num_workers: 2: the term 'relational_distance'"),
        (
            {"student__training": {"epochs": 1, "batch_size": 16, "micro_batch_size": 8}},
            "micro_batch_size: 8: the term",
        ),
    ):
        path = str(write_config(tmp_path, distillation=objective, **change))
        assert main(["run", path]) == 2
        assert expected in capsys.readouterr().err
