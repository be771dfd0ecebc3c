"""`sweep.html`: accuracies against a numeric key with intervals, heat maps, failed runs, and text that is no markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orchestrator.reporting import report as reports
from orchestrator.reporting import sweep_page, sweeps
from orchestrator.reporting.sweeps import Sweep, SweptRun, swept
from orchestrator.run_folder.paths import RunFolder
from tests.reports import difference, plain
from tests.unit.test_verdict import report

KEY = "data.transfer_share"


def sweep(*values: Any, key: str = KEY, failed: tuple[Any, ...] = ()) -> Sweep:
    runs = [
        SweptRun(
            run=f"small-{k}",
            values={key: value},
            validation_accuracy=0.8 + k / 100,
            student=0.8 + k / 50,
            student_interval=(0.79 + k / 50, 0.82 + k / 50),
            baseline=0.7 + k / 100,
            ensemble=0.95,
        )
        for k, value in enumerate(values)
    ]
    runs += [SweptRun(run=f"broken-{value}", values={key: value}, problem="no such layer") for value in failed]
    return sweeps.collected("small-sweep", [key], runs)


def drawn(of: Sweep) -> ElementTree.Element:
    found = sweep_page.chart(of)
    assert found is not None
    return ElementTree.fromstring(found.svg)


def lines(of: ElementTree.Element, role: str) -> list[tuple[float, float]]:
    """The points of a system's line."""
    (found,) = [each for each in of.iter("polyline") if role in each.attrib["class"].split()]
    return [(float(x), float(y)) for x, y in (point.split(",") for point in found.attrib["points"].split())]


def test_wide_values_are_drawn_by_their_logarithms() -> None:
    found = drawn(sweep(0.1, 1.0, 0.01))  # in the order of the command
    assert [x for x, _ in lines(found, "student")] == sorted(x for x, _ in lines(found, "student"))
    left, middle, right = (x for x, _ in lines(found, "student"))
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    left, middle, right = (x for x, _ in lines(drawn(sweep(1, 2, 10)), "student"))  # a factor of 10, and no more
    assert (right - left) / (middle - left) == pytest.approx(9, abs=0.1)


def test_each_system_is_where_its_accuracy_is() -> None:
    found = drawn(sweep(1, 2, 3))
    student, baseline, ensemble = (lines(found, role) for role in ("student", "baseline", "ensemble"))
    per_point = (baseline[0][1] - ensemble[0][1]) / 25  # 70% and 95%
    assert [round((baseline[0][1] - y) / per_point, 1) for _, y in student] == [10, 12, 14]
    assert [round((baseline[0][1] - y) / per_point, 1) for _, y in baseline] == [0, 1, 2]
    assert len({y for _, y in ensemble}) == 1
    whiskers = [
        each.attrib for each in found.iter("line")
        if each.attrib["class"] == "line student" and each.attrib["x1"] == each.attrib["x2"]
    ]  # fmt: skip
    for (x, y), bar in zip(student, whiskers, strict=True):
        assert float(bar["x1"]) == pytest.approx(x, abs=0.1)
        assert float(bar["y1"]) - y == pytest.approx(1 * per_point, abs=0.1)  # a point below, two above
        assert y - float(bar["y2"]) == pytest.approx(2 * per_point, abs=0.1)


def test_what_has_no_chart() -> None:
    for values in (("a", "b"), (True, False), (1,), ({"from": 1}, 2)):
        assert sweep_page.chart(sweep(*values)) is None
    assert sweep_page.chart(sweep(1, failed=(2,))) is None
    two = sweep(1, 2).model_copy(update={"keys": [KEY, "seed"]})
    assert sweep_page.chart(two) is None


def test_failed_runs_are_named_and_left_out() -> None:
    of = sweep(0.1, 1.0, failed=(0.3,))
    assert len(lines(drawn(of), "student")) == 2
    text = sweep_page.page(of, {})
    assert "1 of 3 runs failed: broken-0.3." in text and "failed: no such layer" in text
    assert "best on validation has data.transfer_share 1.0. Test accuracy of its student: 82.00%" in text
    assert "in sweep.json, for programs" in text and '<div class="answers">' not in text
    assert "No run is complete." in sweep_page.page(sweep(failed=(1, 2)), {})


def test_heat_maps_are_in_the_page_and_names_are_text() -> None:
    evil = "<script>alert(1)</script>"
    text = sweep_page.page(sweep(1, 2, key=evil), {"student": b"png"})
    assert "<script" not in text and "&lt;script&gt;" in text
    assert 'src="data:image/png;base64,cG5n"' in text and "test accuracy of the student, %" in text


def test_a_run_without_an_interval_is_a_mark() -> None:
    of = sweep(1, 2)
    runs = [each.model_copy(update={"student_interval": None, "ensemble": None}) for each in of.runs]
    found = sweep_page.chart(of.model_copy(update={"runs": runs}))
    assert found is not None and found.title == "Test accuracy by transfer_share" and "NaN" not in found.svg


def test_a_row_has_the_means_of_repetitions(tmp_path: Path) -> None:
    each = [report(0.9, 0.7, student) for student in (0.80, 0.84, 0.82)]
    named = [of.model_copy(update={"seed": k, "name": f"x-seed-{k}" if k else "x"}) for k, of in enumerate(each)]
    whole = named[0].model_copy(update={"seeds": [reports.of_seed(of) for of in named]})
    for of in (whole, *named[1:]):
        place = Path(RunFolder(str(tmp_path / of.name)).report)
        place.parent.mkdir()
        place.write_text(of.model_dump_json())
    found = swept("x", {"t": 1}, reports.repetitions(str(tmp_path / "x")))
    assert (found.student, found.baseline, found.ensemble) == pytest.approx((0.82, 0.7, 0.9))
    assert found.gain_transferred == pytest.approx(0.6)
    half = 4.302653 * 0.02 / 3**0.5  # Student's t of two degrees of freedom
    assert found.student_interval == pytest.approx((0.82 - half, 0.82 + half))
    alone = swept("x", {"t": 1}, each[:1])
    assert (alone.student, alone.student_interval, alone.gain_transferred) == (0.8, None, each[0].gain_transferred)
    assert swept("x", {"t": 1}, [], "broken").problem == "broken"


def test_a_share_of_a_gain_that_may_be_chance_is_not_given() -> None:
    """As in the verdict of the run: neither in the table nor in the heat map."""
    unsure = difference("ensemble", "baseline", 0.1, (-0.5, 0.7))
    found = [
        swept(
            f"x-{k}", {"t": k, "h": 1}, [plain({"baseline": 0.9, "ensemble": 0.901, "student": 0.95}, differences=of)]
        )
        for k, of in enumerate(([unsure], [difference("ensemble", "baseline", 0.1, (0.05, 0.7))]))
    ]
    of = sweeps.collected("x-sweep", ["t", "h"], found)
    header, chance, sure = sweeps.rows(of)
    column = header.index("gain transferred")
    assert (chance[column], sure[column]) == ("not resolved", "5000.0%")
    drawn = sweeps.heat_map(of, "gain_transferred")
    assert drawn is not None and [text.get_text() for text in drawn.axes[0].texts] == ["5000.00"]
    assert sweeps.heat_map(sweeps.collected("x-sweep", ["t", "h"], found[:1]), "gain_transferred") is None
    several = [plain({"baseline": 0.9, "ensemble": value, "student": 0.95}) for value in (0.89, 0.93)]
    assert swept("x", {"t": 1}, several).may_be_chance
    assert not swept("x", {"t": 1}, [several[1], several[1]]).may_be_chance


def test_columns_have_different_names_and_hours_one_unit() -> None:
    keys = ["ensemble.size", "ensemble.training.epochs", "student.training.epochs", "student.seed"]
    runs = [
        SweptRun(run=f"a-{k}", values=dict.fromkeys(keys, k), member_core_hours=12.0, member_gpu_hours=hours)
        for k, hours in enumerate((0.0, 1.5))
    ]
    header, *rows = sweeps.rows(sweeps.collected("a-sweep", keys, runs))
    assert header[:4] == [*keys[:3], "seed"] and len({*header}) == len(header)
    assert [row[header.index("members, GPU h")] for row in rows] == ["-", "1.5"]
