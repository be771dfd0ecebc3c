"""The verdict: a sentence for every order of the figures, which never contradicts the table beside it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.observers import mlflow_descriptions
from orchestrator.reporting import markdown, tables, verdict
from orchestrator.reporting import report as reports
from orchestrator.reporting.report import Difference, Report
from orchestrator.reporting.verdict import Accuracies
from tests.reports import plain


def accuracies(ensemble: float, baseline: float, student: float, *members: float) -> Accuracies:
    each = members or (0.0,)
    best = max(each)
    return Accuracies(
        baseline=baseline,
        ensemble=ensemble,
        student=student,
        members=each,
        best=best,
        best_name=f"member-{each.index(best)}",
    )


HAS = "The ensemble has {} accuracy, the hard-label baseline {}, the student {}: "
CASES: list[tuple[tuple[float, float, float], str, str]] = [
    ((0.96, 0.93, 0.95), "66.7% of the ensemble's gain reached the student.", "66.7%"),
    ((0.96, 0.93, 0.96), "all of the ensemble's gain reached the student.", "all"),
    (
        (0.95, 0.90, 0.97),
        "all of the ensemble's gain reached the student, which beats the ensemble: it gained 140.0% of what the "
        "ensemble gained.",
        "140.0% (above the ensemble)",
    ),
    (
        (0.901, 0.90, 0.97),
        "all of the ensemble's gain reached the student, which beats the ensemble: it gained 70 times what the "
        "ensemble gained.",
        "70 times (above the ensemble)",
    ),
    (
        (0.96, 0.93, 0.93),
        "none of the ensemble's gain reached the student, which is level with the baseline.",
        "none",
    ),
    (
        (0.95, 0.931, 0.918),
        "none of the ensemble's gain reached the student, which is below the baseline.",
        "none (below the baseline)",
    ),
    (
        (0.93, 0.93, 0.94),
        "the ensemble is level with the baseline, so there was no gain to transfer; the student is above both.",
        "no gain",
    ),
    ((0.93, 0.93, 0.93), "all three are level, so there was no gain to transfer.", "no gain"),
    (
        (0.93, 0.93, 0.92),
        "the ensemble is level with the baseline, so there was no gain to transfer; the student is below both.",
        "no gain",
    ),
    (
        (0.90, 0.93, 0.94),
        "the ensemble is below the baseline, so there was no gain to transfer; the student is above both.",
        "no gain",
    ),
    (
        (0.90, 0.93, 0.93),
        "the ensemble is below the baseline, so there was no gain to transfer; the student is level with the baseline.",
        "no gain",
    ),
    (
        (0.90, 0.93, 0.91),
        "the ensemble is below the baseline, so there was no gain to transfer; the student is between the two.",
        "no gain",
    ),
    (
        (0.90, 0.93, 0.90),
        "the ensemble is below the baseline, so there was no gain to transfer; the student is level with the ensemble.",
        "no gain",
    ),
    (
        (0.90, 0.93, 0.89),
        "the ensemble is below the baseline, so there was no gain to transfer; the student is below both.",
        "no gain",
    ),
]


@pytest.mark.parametrize(("figures", "sentence", "cell"), CASES)
def test_every_order_has_its_sentence(figures: tuple[float, float, float], sentence: str, cell: str) -> None:
    found = accuracies(*figures)
    assert verdict.of(found, "accuracy") == HAS.format(*map(verdict.shown, figures)) + sentence
    assert verdict.transferred(found) == cell


@pytest.mark.parametrize(
    ("student", "where"),
    [
        (0.97, "above both"),
        (0.955, "between the two"),
        (0.94, "below both"),
        (0.96, "above the baseline and level with the ensemble"),
        (0.95, "level with the baseline and below the ensemble"),
    ],
)
def test_a_gain_that_may_be_chance_has_no_share(student: float, where: str) -> None:
    unsure = Difference(
        of="ensemble", over="baseline", accuracy=0.01, interval=(-0.01, 0.03), resolved=False, examples_needed=900
    )
    found = dataclasses.replace(accuracies(0.96, 0.95, student), differences=(unsure,))
    words = verdict.of(found, "accuracy")
    chance = "the ensemble's difference to the baseline may be chance, so no share of a gain is given"
    assert f": {chance}; the student is {where}." in words
    assert "reached" not in words and "some 900 test examples would resolve it" in words
    assert verdict.transferred(found) == "not resolved"
    sure = unsure.model_copy(update={"interval": (0.005, 0.015), "resolved": True})
    assert "may be chance" not in verdict.of(dataclasses.replace(found, differences=(sure,)), "accuracy")


def test_no_order_is_left_out() -> None:
    orders = {
        tuple((a > b) - (a < b) for a, b in ((e, b), (s, b), (s, e)))
        for e, b, s in itertools.product((1, 2, 3), repeat=3)
    }
    assert orders == {order for order, _ in verdict.CASES} == {order for order, unsure in verdict.CASES if not unsure}
    assert len(orders) == 13
    assert len({verdict.signs(accuracies(*figures)) for figures, _, _ in CASES}) == 13


@pytest.mark.parametrize(
    ("figures", "end"),
    [
        ((0.95004, 0.95, 0.94), "is level with the baseline, so there was no gain to transfer; the student is below"),
        ((0.95, 0.95004, 0.95002), "all three are level, so there was no gain to transfer."),
        ((0.95, 0.90, 0.95004), ": all of the ensemble's gain reached the student."),
        ((0.95, 0.90, 0.90001), "none of the ensemble's gain reached the student, which is level with the baseline."),
        ((0.95, 0.20, 0.2002), ": less than 0.1% of the ensemble's gain reached the student."),
        ((0.95, 0.20, 0.9498), ": more than 99.9% of the ensemble's gain reached the student."),
        ((0.95, 0.20, 0.9502), "which beats the ensemble: it gained more than 100% of what the ensemble gained."),
    ],
)
def test_figures_are_compared_as_they_are_printed(figures: tuple[float, float, float], end: str) -> None:
    assert end in verdict.of(accuracies(*figures), "accuracy")


@pytest.mark.parametrize(
    ("ensemble", "members", "sentence"),
    [
        (0.96, (0.94, 0.95), ""),
        (
            0.90,
            (0.94, 0.96),
            " The ensemble is below the mean of its members, 95.00%, and below member-1, the "
            "best on the validation split, with 96.00%.",
        ),
        (
            0.95,
            (0.94, 0.96),
            " The ensemble is level with the mean of its members, and below member-1, the "
            "best on the validation split, with 96.00%.",
        ),
        (
            0.955,
            (0.96, 0.94),
            " The ensemble is below member-0, the best of its members on the validation split, with 96.00%.",
        ),
        (0.96, (0.96, 0.94), " The ensemble is level with member-0, the best of its members on the validation split."),
        (0.96, (0.96, 0.96), ""),
        (0.96, (0.97,), ""),
    ],
)
def test_the_ensemble_beside_its_members(ensemble: float, members: tuple[float, ...], sentence: str) -> None:
    found = verdict.of(accuracies(ensemble, 0.5, 0.6, *members), "accuracy")
    assert found.endswith("reached the student." + sentence)


def test_specialists_are_not_in_the_mean_of_the_members() -> None:
    """As in the table: a specialist tells its own classes apart alone."""
    found = plain({"baseline": 0.9, "ensemble": 0.945, "student": 0.9}, members=(0.94, 0.95, 0.3))
    found.members[2].special = ["sea"]
    assert tables.comparison(found)[1][:2] == ["mean of 2 generalists", "94.50%"]
    assert "is level with the mean of its generalists, and below member-1" in tables.verdict(found)


SHARES = st.integers(0, 400).map(lambda right: right / 400) | st.floats(0, 1)


@given(SHARES, SHARES, SHARES, st.lists(SHARES, min_size=1, max_size=4))
def test_no_share_of_a_gain_is_negative_or_above_all_without_words(
    ensemble: float, baseline: float, student: float, members: list[float]
) -> None:
    found = accuracies(ensemble, baseline, student, *members)
    sentence, cell = verdict.of(found, "accuracy"), verdict.transferred(found)
    assert not re.search(r"(?<!member)-\d|nan|\{|inf", sentence + cell)
    for text in (sentence, cell):
        for percent in map(float, re.findall(r"([\d.]+)%", text)):
            assert percent <= 100 or "above the ensemble" in text or "beats the ensemble" in text


def report(ensemble: float, baseline: float, student: float, nll: float = 0.5) -> Report:
    def system(name: str, role: str, accuracy: float) -> dict[str, Any]:
        test = {"examples": 400, "accuracy": accuracy, "nll": nll, "ece": 0.1, "wer": nll}
        calibration: dict[str, list[float]] = {"examples": [], "confidence": [], "accuracy": []}
        latency = {"p50": 1.0, "p99": 2.0}
        return {"name": name, "role": role, "parameters": 9, "test": test, "latency_ms": latency} | {
            "calibration": calibration
        }

    systems = [system("member-0", "member", 0.94), system("member-1", "member", 0.96)]
    systems += [system(r, r, a) for r, a in zip(reports.COMPARED, (baseline, ensemble, student), strict=True)]
    soft = {"examples": 1, "bytes": 1, "temperature": 2.0, "combine": "arithmetic", "seconds": 1.0, "reused": False}
    return Report.model_validate(
        {
            "name": "small",
            "systems": systems,
            "gain_transferred": reports.gain_transferred(baseline, ensemble, student),
            "curve": [{"members": 1, "accuracy": 0.5, "nll": nll}],
            "soft_targets": soft,
            "stages": [],
            "bound_by": "student",
            "paper": {"source": "a paper", "student": {"accuracy": 0.9}, "gain_transferred": 0.9},
        }
    )


def test_it_reads_the_same_wherever_it_is_printed() -> None:
    found = report(0.95, 0.931, 0.918)
    assert found.gain_transferred == pytest.approx(-0.013 / 0.019)
    sentence = (
        "The ensemble has 95.00% accuracy, the hard-label baseline 93.10%, the student 91.80%: none of the ensemble's "
        "gain reached the student, which is below the baseline. The ensemble is level with the mean of its members, "
        "and below member-1, the best on the validation split, with 96.00%."
    )
    assert tables.verdict(found) == sentence
    assert sentence in markdown.markdown(found) and f"**{sentence}**" in mlflow_descriptions.note(found, {}, "1", "2")
    assert "none (below the baseline)" in tables.compare([found])[1]
    assert tables.beside_paper(found)[-1] == ["gain transferred", "90.0%", "none (below the baseline)"]
    assert "-68" not in markdown.markdown(found) + str(tables.compare([found]))


def test_an_infinite_likelihood_is_still_json() -> None:
    found = report(0.95, 0.931, 0.918, nll=float("inf"))
    text = reports.as_json(found)
    assert '"nll": "Infinity"' in text and "inf" in markdown.markdown(found)
    again = Report.model_validate_json(text)
    assert again.system("student").test.nll == float("inf") and again.curve == found.curve
    assert again.system("student").test.figure("wer") == float("inf")


@pytest.mark.parametrize("recipe, words", [
    ({}, "soft targets at T = 2, arithmetic mean, "),
    ({"weights": {"member-0": 0.5, "member-1": 0.5}}, "soft targets at T = 2, arithmetic mean, "),
    ({"weights": {"member-0": 0.694, "member-1": 0.0, "member-2": 0.306}},
     "arithmetic mean with the weights member-0 0.694, member-1 0, member-2 0.306, "),
    ({"rule": "entropy", "schedule": "T from 4 to 1 (cosine)", "weights": {"member-0": 1.0, "member-1": 0.0}},
     "soft targets at T from 4 to 1 (cosine), arithmetic mean, weights of each example by entropy, "),
])  # fmt: skip
def test_the_recipe_of_the_soft_targets_is_reported(recipe: dict[str, object], words: str) -> None:
    found = report(0.95, 0.931, 0.918)
    made = found.soft_targets.model_copy(update={"temperature": 2.0, "combine": "arithmetic", **recipe})
    text = markdown.markdown(found.model_copy(update={"soft_targets": made}))
    assert words in text
    assert ("the weight of member-1 is 0" in text) == (
        recipe.get("weights", {}).get("member-1") == 0 and "rule" not in recipe
    )  # type: ignore[attr-defined]


def test_an_infinite_likelihood_is_read_again() -> None:
    """Such as that of a tree, which gives classes the probability 0."""
    worth = {"member": "member-0", "accuracy": 0.9, "nll": math.inf, "ece": 0.1, "adds": 0.9, "lost": 0.0}
    none = dict.fromkeys(("accuracy_interval", "adds_interval", "lost_interval"))
    report = reports.Report.model_validate(
        plain().model_dump()
        | {"worth": [{**worth, **none}], "curve": [{"members": 1, "accuracy": 0.9, "nll": math.inf}]}
    )
    report.systems[0].test.nll = math.inf
    assert Report.model_validate_json(reports.as_json(report)) == report
