"""Metrics, tables and the figure of classes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from orchestrator.reporting import by_class, plots
from workers.evaluation import metrics


def predictions(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    logits = draw.normal(size=(rows, classes))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), draw.integers(0, classes - 1, rows)


def test_counts_are_those_of_scikit_learn_and_add_up_over_parts() -> None:
    log_p, labels = predictions(200, 7)
    best = log_p.argmax(1)
    whole, halves = metrics.measure(log_p, labels), [metrics.measure(log_p[k::2], labels[k::2]) for k in range(2)]
    assert whole.macro_f1 == pytest.approx(f1_score(labels, best, average="macro"))
    np.testing.assert_array_equal(whole.confusion, confusion_matrix(labels, best, labels=range(7)))
    np.testing.assert_array_equal((halves[0] + halves[1]).confusion, whole.confusion)
    assert (halves[0] + halves[1]).macro_f1 == whole.macro_f1


def test_classes_that_do_not_occur_are_left_out_of_macro_f1() -> None:
    right = metrics.measure(np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])), np.array([0, 1]))
    assert right.macro_f1 == 1.0


def test_many_classes_have_macro_f1_and_no_confusion() -> None:
    log_p, labels = predictions(50, metrics.CONFUSED + 1)
    found = metrics.measure(log_p, labels)
    assert found.confusion.shape == (0, 0)
    assert found.macro_f1 == pytest.approx(f1_score(labels, log_p.argmax(1), average="macro"))


CONFUSIONS = {"ensemble": [[4, 0, 0], [1, 2, 0], [0, 0, 0]], "student": [[3, 1, 0], [2, 1, 0], [0, 0, 0]]}


def test_tables_name_classes_and_leave_out_those_without_examples() -> None:
    labels = ["sea", "sky", "sun"]
    assert by_class.accuracy(labels, CONFUSIONS) == [
        ["class", "test examples", "ensemble", "student"],
        ["sea", "4", "100.0%", "75.0%"],
        ["sky", "3", "66.7%", "33.3%"],
    ]
    assert by_class.errors(labels, CONFUSIONS, "student") == [
        ["label", "predicted", "ensemble", "student"],
        ["sky", "sea", "1", "2"],
        ["sea", "sky", "0", "1"],
    ]
    assert by_class.errors([], CONFUSIONS, "student")[1][:2] == ["1", "0"]


def test_a_name_that_the_font_lacks_is_drawn_as_its_number() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots._drawable("体育", 4) == "4"
        assert plots._drawable("Наука", 1) == "Наука"
        assert plots._drawable("a very long name of a class", 0) == "a very long nam…"
