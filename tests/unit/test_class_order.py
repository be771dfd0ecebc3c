"""A model whose classes are in another order, told from one that errs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from workers.evaluation import class_order
from workers.evaluation.class_order import Swapped


def answered(labels: np.ndarray, accuracy: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Answers that are right at random, and else any class."""
    return np.where(rng.random(len(labels)) < accuracy, labels, rng.integers(0, classes, len(labels)))


def swapped(answers: np.ndarray, labels: np.ndarray, confidence: float = 1.0, **also: Any) -> Swapped | None:
    """`class_order.swapped` of a model that is equally sure of every answer."""
    return class_order.swapped(answers, labels, np.full(len(labels), confidence, np.float32), **also)


@pytest.mark.parametrize(
    ("order", "accuracy", "examples"),
    [
        ([1, 0], 0.9, 40),
        ([3, 1, 2, 0], 0.75, 200),  # two of four
        ([1, 2, 0, 3, 4, 5, 6, 7, 8, 9], 0.7, 256),
        ([1, 0, 3, 2, 4], 0.8, 200),
        ([*range(1, 10), 0], 0.6, 256),
    ],
)
def test_some_classes_in_another_order(order: list[int], accuracy: float, examples: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, len(order), examples)
        found = swapped(np.array(order)[answered(labels, accuracy, len(order), rng)], labels)
        moved = [f"{a} it calls {b}" for a, b in enumerate(order) if a != b]
        assert found is not None and found.sure and found.pairs.startswith(f"{', '.join(moved)} (")


@pytest.mark.parametrize("examples", [10, 40, 256])
@pytest.mark.parametrize(("classes", "accuracy"), [(2, 0.0), (2, 0.3), (4, 0.1), (10, 0.0), (10, 0.4), (30, 0.2)])
def test_errors_are_no_other_order(classes: int, accuracy: float, examples: int) -> None:
    """An accuracy of 0 is that of a guess."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, classes, examples)
        assert swapped(answered(labels, accuracy, classes, rng), labels) is None
        confused = np.where(rng.random(examples) < 0.6, labels // 2 * 2, labels)  # every second class for its neighbour
        assert swapped(confused, labels) is None
        assert swapped(np.zeros(examples, np.int64), labels) is None


def test_classes_by_their_names() -> None:
    labels = np.repeat([0, 1, 2], 20)
    found = swapped(np.array([0, 2, 1])[labels], labels, names=("ant", "bee", "cat"))
    assert found is not None
    assert found.pairs == "'bee' it calls 'cat', 'cat' it calls 'bee' (40 of 40 examples)"


def test_a_model_that_is_barely_trained_is_not_sure() -> None:
    """It may take each cluster of examples for one class, and another cluster for another."""
    labels = np.repeat([0, 1, 2], 20)
    for confidence, sure in ((0.1, False), (0.9, True)):
        found = swapped(np.array([1, 2, 0])[labels], labels, confidence)
        assert found is not None and found.sure is sure
    alike, certain = np.full((2, 4), 0.25, np.float32), np.eye(4, dtype=np.float32)
    assert class_order.confidence(alike).tolist() == [0.0] * 2 and class_order.confidence(certain).tolist() == [1.0] * 4
