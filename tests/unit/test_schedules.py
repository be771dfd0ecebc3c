"""Schedules: where they begin and end, how they go on the way, and what they may not give."""

from __future__ import annotations

import math

import pytest

from workers.errors import RequestError
from workers.specs.objective import DistillationSpec
from workers.training import objective
from workers.training.schedules import SCHEDULES, Moment, Value, fixed, step

EPOCHS, STEPS = 4, 5


def values(name: str, by: str = "step", **kwargs: object) -> list[float]:
    """From 4 to 1, at every step."""
    value = Value("weight", 4.0, 1.0, SCHEDULES[name](**kwargs), by)  # type: ignore[arg-type]
    return [value.at(Moment(epoch, EPOCHS, k, STEPS)) for epoch in range(EPOCHS) for k in range(STEPS)]


def test_linear_goes_evenly_from_the_first_step_to_the_last() -> None:
    found = values("linear")
    assert found == pytest.approx([4.0 - 3.0 * k / 19 for k in range(20)]) and (found[0], found[-1]) == (4.0, 1.0)


def test_by_epoch_it_stays_within_one() -> None:
    found = values("linear", by="epoch")
    assert found == pytest.approx([4.0] * 5 + [3.0] * 5 + [2.0] * 5 + [1.0] * 5)


def test_cosine_is_slow_at_both_ends() -> None:
    found = values("cosine")
    assert found == pytest.approx([1.0 + 1.5 * (1 + math.cos(math.pi * k / 19)) for k in range(20)])
    assert found[0] == 4.0 and found[-1] == 1.0


def test_steps_are_of_one_size() -> None:
    assert values("step") == [4.0] * 10 + [1.0] * 10
    assert values("step", at=[0.25, 0.5, 1.0]) == pytest.approx([4.0] * 5 + [3.0] * 5 + [2.0] * 9 + [1.0])


def test_constant_stays() -> None:
    assert values("constant") == [4.0] * 20
    assert fixed("weight", 0.3).at(Moment(3, 4, 2, 5)) == 0.3


@pytest.mark.parametrize("name", ["linear", "cosine", "step"])
def test_from_a_number_to_the_same_is_that_number_at_every_step(name: str) -> None:
    """Soft targets are stored at one T, and any other, however near, is refused."""
    spec = DistillationSpec(temperature={"from": 0.7, "to": 0.7, "schedule": name})  # type: ignore[arg-type]
    assert not spec.is_scheduled
    goal = objective.build(spec)
    assert {goal.at(Moment(0, 1, k, 1000)).temperature for k in range(1000)} == {0.7}


def test_a_training_of_one_step_has_the_first_value() -> None:
    for name in SCHEDULES:
        assert Value("weight", 4.0, 1.0, SCHEDULES[name]()).at(Moment(0, 1, 0, 1)) == 4.0


@pytest.mark.parametrize("at", [[], 0.0, 1.5, [0.5, "x"]])
def test_steps_outside_of_the_training_are_refused(at: object) -> None:
    with pytest.raises(RequestError, match=r"schedule 'step': `at` is .*; expected shares of the training"):
        step(at)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [2.0, float("nan"), float("inf")])
def test_values_outside_of_their_range_are_refused(share: float) -> None:
    value = Value("distillation.temperature", 4.0, 1.0, lambda done: share, least=0.001)
    with pytest.raises(RequestError, match=r"distillation\.temperature: its schedule gives .* when 0% .* of at least"):
        value.at(Moment(0, 2, 0, 10))
