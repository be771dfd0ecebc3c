"""Parts of drawings: escaped text, round ticks, labels that do not overlap, texts that fit."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.reporting import charts, svg
from orchestrator.reporting.svg import Scale
from tests.reports import full, plain


def test_text_and_attributes_are_escaped() -> None:
    drawn = svg.drawing(10, 5, [svg.text("<b>&\"'", 1, 2, '"><script>')], title="a < b", description="&")
    parsed = ElementTree.fromstring(drawn)
    assert parsed.get("viewBox") == "0 0 10 5" and parsed.findtext("title") == "a < b"
    assert parsed.findtext("text") == "<b>&\"'" and "<script" not in drawn


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.931, 0.968, [0.94, 0.95, 0.96]),
        (-2.4, 4.1, [-2.0, 0.0, 2.0, 4.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert Scale(low, high, 0, 100).ticks == pytest.approx(ticks)


def test_ticks_of_counts_are_whole_and_of_logarithms_powers() -> None:
    assert Scale(1, 3, 0, 100, whole=True).ticks == [1, 2, 3]
    assert Scale(0.0008, 9.0, 0, 100, log=True).ticks == pytest.approx([0.001, 0.01, 0.1, 1.0])
    assert Scale(0.2, 0.9, 0, 100, log=True).ticks == pytest.approx([0.2, 0.5])
    assert Scale(0.001, 1.0, 300, 0, log=True).at(0.1) == pytest.approx(100)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_within_the_scale(low: float, width: float) -> None:
    scale = Scale(low, low + width, 0, 100)
    assert all(-1e-3 <= scale.at(value) <= 100 + 1e-3 for value in scale.ticks) and len(scale.ticks) <= 12


@given(st.lists(st.floats(0, 300), min_size=1, max_size=6))
def test_labels_are_apart_and_keep_their_order(places: list[float]) -> None:
    found = svg.apart(places)
    assert all(b - a >= svg.LINE - 1 for a, b in pairwise(sorted(found)))
    assert sorted(range(len(places)), key=lambda k: (places[k], k)) == sorted(
        range(len(places)), key=lambda k: found[k]
    )


def test_a_text_is_cut_where_it_is_too_wide() -> None:
    assert svg.fitted("student", 100) == "student"
    assert svg.fitted("a very long name of a system", 60) == "a very…"
    assert svg.width_of(svg.fitted("体育新闻" * 9, 60)) <= 60 and svg.fitted("wide", 3) == ""


def drawn(svg_text: str, tag: str, class_: str) -> list[ElementTree.Element]:
    return [each for each in ElementTree.fromstring(svg_text).iter(tag) if each.get("class") == class_]


def test_accuracies_have_their_marks_and_intervals() -> None:
    with_, without = charts.accuracies(full()), charts.accuracies(plain())
    for role, tag in (("ensemble", "circle"), ("baseline", "rect"), ("student", "polygon")):
        assert len(drawn(with_.svg, tag, f"mark {role}")) == 1
        assert len(drawn(with_.svg, "line", f"line {role}")) == 3 and not drawn(without.svg, "line", f"line {role}")
    assert "ensemble 96.00% (95.00% to 97.00%)" in with_.description
    assert with_.title.endswith("with 95% intervals") and not without.title.endswith("intervals")
    baseline, ensemble = (float(drawn(with_.svg, *of)[0].get(x) or "") for of, x in (
        (("rect", "mark baseline"), "x"), (("circle", "mark ensemble"), "cx")
    ))  # fmt: skip
    assert baseline < ensemble


def test_a_difference_that_is_not_resolved_is_dashed() -> None:
    (figure,) = charts.differences(full())
    assert len(drawn(figure.svg, "line", "line difference dashed")) == 1 and charts.differences(plain()) == []


def test_bins_of_few_examples_are_left_out_of_reliability() -> None:
    student = full().system("student")
    few = student.calibration.model_copy(update={"examples": [9, 991]})
    assert charts.bins(student.model_copy(update={"calibration": few})) == [(0.97, 0.94)]


def test_curves_of_training_are_drawn_from_two_epochs_on() -> None:
    assert [figure.title for figure in charts.training(full())] == [
        "Validation accuracy by epoch",
        "Training loss by epoch, nats",
    ]
    zero = [{"epoch": k, "train_loss": 0.0, "validation_accuracy": 0.5} for k in (1, 2)]
    assert len(charts.training(full(training={"student": zero}))) == 1
    assert charts.training(plain()) == [] and charts.training(full(training={"student": zero[:1]})) == []


def test_shapes_differ_by_role_without_colours() -> None:
    made = {role: svg.mark(role, 0, 0) for role in ("ensemble", "baseline", "student", "further")}
    assert len({(each.tag, (each.get("points") or "").count(",")) for each in made.values()}) == 4
    assert math.isfinite(svg.around([math.inf, 1.0])[1]) and svg.around([]) == (0.0, 1.0)
