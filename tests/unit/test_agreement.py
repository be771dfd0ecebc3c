"""Where student and ensemble agree: counts by hand, the most divergent rows, parts that add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest

from workers.evaluation.agreement import AgreementSums, compare
from workers.evaluation.mixture import log_mean

LABELS = np.array([0, 0, 1, 1, 2, 2])
ENSEMBLE = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.7, 0.2, 0.1], [0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
)
STUDENT = np.array(
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
)


def logs(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probabilities).astype(np.float32)


def found(most: int = 4) -> AgreementSums:
    return compare([logs(ENSEMBLE)], [1.0], "arithmetic", logs(STUDENT), labels=LABELS, most=most)


def test_rows_are_counted_by_both_answers() -> None:
    each = found()
    counts = (each.both_right, each.lost, each.gained, each.wrong_alike, each.wrong_otherwise)
    assert counts == (2, 1, 1, 1, 1)
    assert [(row.kind, row.row) for row in each.rows] == [
        ("lost", 1), ("gained", 2), ("divergent", 4), ("divergent", 3), ("divergent", 0)
    ]  # fmt: skip
    lost = each.rows[0]
    assert lost.label == 0 and [k for k, _ in lost.ensemble] == [0, 1, 2] and lost.student[0][0] == 1
    assert lost.student[0][1] == pytest.approx(0.8)
    assert lost.divergence == pytest.approx((ENSEMBLE[1] * np.log(ENSEMBLE[1] / STUDENT[1])).sum(), abs=1e-6)


def test_equal_answers_and_none_that_are_asked_for_leave_no_rows() -> None:
    assert all(row.row != 5 for row in found().rows)
    assert [row.row for row in found(most=1).rows] == [1, 2, 4] and not found(most=0).rows


def test_a_rule_of_weights_is_not_called_without_rows() -> None:
    none = compare([logs(ENSEMBLE)], "entropy", "arithmetic", logs(STUDENT), labels=LABELS, most=0)
    assert none == found(most=0)


def test_a_probability_of_zero_counts_nothing_and_one_that_the_student_excludes_is_infinite() -> None:
    excluded = compare(
        [logs(ENSEMBLE[:1])], [1.0], "arithmetic", logs(np.array([[1.0, 0.0, 0.0]])), labels=LABELS[:1], most=1
    )
    assert excluded.rows[0].divergence == np.inf
    assert np.isfinite([row.divergence for row in found().rows]).all()  # row 3 has a 0


@pytest.mark.parametrize("combine", ["arithmetic", "geometric"])
def test_parts_add_up_to_the_whole(combine: str) -> None:
    draw = np.random.default_rng(5)
    members = [logs(draw.dirichlet(np.ones(4), 90)) for _ in range(3)]
    student, labels = logs(draw.dirichlet(np.ones(4), 90)), draw.integers(0, 4, 90)
    weights = [0.5, 0.3, 0.2]
    whole = compare(members, weights, combine, student, labels=labels, most=3)
    cuts = [slice(0, 40), slice(40, 90)]
    parts = [
        compare([p[cut] for p in members], weights, combine, student[cut], labels=labels[cut], most=3, first=cut.start)
        for cut in cuts
    ]
    assert parts[0] + parts[1] == whole
    right = np.stack([log_mean(members, weights, combine).argmax(1) == labels, student.argmax(1) == labels])
    assert (whole.both_right, whole.lost) == (right.all(0).sum(), (right[0] & ~right[1]).sum())
