"""The content of a report: its answers for every sign, its sections, and the same order in each form."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from orchestrator.reporting import html, markdown, sections, tables, verdict
from orchestrator.reporting.answers import OVER_BEST, WORTH, answers
from orchestrator.reporting.by_class import Pair, shared
from orchestrator.reporting.content import Block, Cards, Code, Figure, Row, Table, Text
from orchestrator.reporting.report import Report
from orchestrator.reporting.verdict import OWN_MAY_BE_CHANCE
from tests.reports import DIFFERENCES, difference, example, full, plain

NO_GAIN = "There was no gain"
SECTIONS = [
    "Systems",
    "How sure the differences are",
    "Over 2 seeds",
    "Beside a paper",
    "Speed",
    "What each further member was worth",
    "Reliability",
    "Classes",
    "Confusion that the student inherited",
    "Where student and ensemble differ",
    "Training",
    "How it went and what it cost",
    "How to run it again",
]


def short(report: Report) -> list[str]:
    return [each.short for each in answers(report)]


def test_every_section_in_its_order_in_markdown_and_html() -> None:
    report = full()
    assert [each.title for each in sections.document(report).sections] == SECTIONS
    assert re.findall("^## (.*)$", markdown.markdown(report), re.MULTILINE) == SECTIONS
    assert re.findall('<section id="[^"]*">\n<h2>(.*)</h2>', html.page(report)) == SECTIONS


def test_a_report_of_an_earlier_version_has_the_sections_that_it_can_fill() -> None:
    report = plain(stages=[], folder="")
    found = [each.title for each in sections.document(report).sections]
    assert found == ["Systems", "Speed", "What each further member was worth", "Reliability", SECTIONS[-2]]
    last = answers(report)[2]
    assert last.short == "Not measured" and "earlier version" in last.lines[0]
    assert "best member on validation" not in markdown.markdown(report)


@pytest.mark.parametrize(
    ("accuracies", "interval", "expected"),
    [
        ((0.90, 0.96, 0.94), (4.0, 8.0), ["Yes: +6.00 points", "Yes: 66.7% of the gain"]),
        ((0.90, 0.96, 0.96), (4.0, 8.0), ["Yes: +6.00 points", "Yes: all of the gain"]),
        ((0.90, 0.96, 0.97), (4.0, 8.0), ["Yes: +6.00 points", "Yes: all of the gain, and more"]),
        ((0.90, 0.96, 0.90), (4.0, 8.0), ["Yes: +6.00 points", "No: none of the gain"]),
        ((0.90, 0.96, 0.89), (4.0, 8.0), ["Yes: +6.00 points", "No: it is below the baseline"]),
        (
            (0.95, 0.96, 0.955),
            (-1.0, 3.0),
            ["Not shown: +1.00 points may be chance", "Not shown: the gain may be chance"],
        ),
        (
            (0.95, 0.96, 0.94),
            (-1.0, 3.0),
            ["Not shown: +1.00 points may be chance", "Not shown: the gain may be chance"],
        ),
        ((0.96, 0.90, 0.97), (-8.0, -4.0), ["No: -6.00 points", NO_GAIN]),
        ((0.96, 0.95, 0.97), (-3.0, 1.0), ["Not shown: -1.00 points may be chance", NO_GAIN]),
        ((0.95, 0.95, 0.95), (-1.0, 1.0), ["No: level with the baseline", NO_GAIN]),
        ((0.90, 0.96, 0.94), None, ["Yes: +6.00 points", "Yes: 66.7% of the gain"]),
    ],
)
def test_an_answer_for_every_sign(
    accuracies: tuple[float, float, float], interval: tuple[float, float] | None, expected: list[str]
) -> None:
    named = dict(zip(("baseline", "ensemble", "student"), accuracies, strict=True))
    points = 100 * (named["ensemble"] - named["baseline"])
    known = [] if interval is None else [difference("ensemble", "baseline", points, interval)]
    report = plain(named, differences=known)
    assert short(report)[:2] == expected
    text = markdown.markdown(report) + html.page(report)
    assert not re.search(r"\bnan\b|\binf\b|\{\w*\}", text)


@pytest.mark.parametrize(
    ("best", "interval", "expected"),
    [
        (0.95, (0.2, 1.8), "Yes: +6.00 points, and +1.00 over its best member"),
        (0.95, (-0.5, 2.5), "Yes: +6.00 points; over its best member not shown"),
        (0.96, (-1.0, 1.0), "Yes: +6.00 points; level with its best member"),
        (0.965, (-1.5, 0.5), "Yes: +6.00 points; over its best member not shown"),
        (0.97, (-1.8, -0.2), "Yes: +6.00 points; below its best member"),
        (0.95, None, "Yes: +6.00 points; over its best member not shown"),
    ],
)
def test_the_best_member_belongs_to_the_worth_of_an_ensemble(
    best: float, interval: tuple[float, float] | None, expected: str
) -> None:
    over_best = difference("ensemble", "member-1", 100 * (0.96 - best), interval)
    known = [difference("ensemble", "baseline", 6.0, (4.0, 8.0)), over_best]
    report = plain({"baseline": 0.90, "ensemble": 0.96, "student": 0.94}, members=(0.9, best), differences=known)
    assert short(report)[0] == expected


@pytest.mark.parametrize(
    ("student", "other", "interval", "expected", "words"),
    [
        (0.97, "ensemble", (-0.5, 2.5), "Yes: all of the gain", "above the ensemble is not resolved"),
        (0.97, "ensemble", (0.2, 1.8), "Yes: all of the gain, and more", "which beats the ensemble"),
        (0.89, "baseline", (-2.5, 0.5), "No: none of the gain", "below the baseline is not resolved"),
        (0.89, "baseline", (-1.8, -0.2), "No: it is below the baseline", "which is below the baseline"),
        (0.92, "baseline", (-0.5, 4.5), OWN_MAY_BE_CHANCE, "reached the student; that it is above the baseline is not"),
        (0.92, "baseline", (0.5, 3.5), "Yes: 33.3% of the gain", "33.3% of the ensemble's gain reached the student."),
        (0.96, "baseline", (-0.5, 12.5), OWN_MAY_BE_CHANCE, "above the baseline is not resolved"),
        (0.97, "baseline", (-0.5, 14.5), OWN_MAY_BE_CHANCE, "above the baseline is not resolved"),
        (0.92, "baseline", None, OWN_MAY_BE_CHANCE, "above the baseline is not resolved"),
    ],
)
def test_a_student_beyond_ensemble_or_baseline_may_be_chance(
    student: float, other: str, interval: tuple[float, float] | None, expected: str, words: str
) -> None:
    values = {"baseline": 0.90, "ensemble": 0.96, "student": student}
    known = [
        difference("ensemble", "baseline", 6.0, (4.0, 8.0)),
        difference("student", other, 100 * (student - values[other]), interval),
    ]
    report = plain(values, differences=known)
    assert short(report)[1] == expected and words in markdown.markdown(report)
    cell = verdict.transferred(tables.accuracies(report))
    resolved = interval is not None and interval[0] * interval[1] > 0
    assert ("(above" in cell or "(below" in cell) is (resolved and not 0.9 <= student <= 0.96)
    assert ("(not resolved)" in cell) is (expected == OWN_MAY_BE_CHANCE)


def test_groups_are_what_is_resampled() -> None:
    (line, *_) = answers(plain(differences=DIFFERENCES, test_groups=40))[2].lines
    assert line == "Ranges are 95% intervals over 40 groups of 1,000 test examples."


def test_no_sign_is_left_out() -> None:
    assert set(WORTH) == set(itertools.product((-1, 0, 1), (True, False, None)))
    assert set(OVER_BEST) == set(itertools.product((-1, 0, 1), (True, False)))


@pytest.mark.parametrize(
    ("differences", "expected", "words"),
    [
        (DIFFERENCES, "3 of 4 differences are resolved", "some 4,400 test examples would resolve it"),
        (DIFFERENCES[1:], "All differences are resolved", "95% intervals over 1,000 test examples."),
        (DIFFERENCES[:1], "None of the differences is resolved", "The ensemble over member-1 is not resolved at this"),
        (DIFFERENCES[:2], "1 of 2 differences is resolved", "some 4,400 test examples would resolve it"),
        ([difference("ensemble", "baseline", 6.0, None)], "Unknown", "are too few for intervals"),
        ([], "Not measured", "earlier version"),
    ],
)
def test_how_sure_it_is(differences: list[dict[str, Any]], expected: str, words: str) -> None:
    found = answers(plain(differences=differences))[2]
    assert found.short == expected and words in " ".join(found.lines)


def test_accuracies_that_are_printed_apart_by_nothing_are_level() -> None:
    found = answers(plain({"baseline": 0.900049, "ensemble": 0.900051, "student": 0.900049}))
    assert found[0].lines[0] == "Level with the hard-label baseline."
    assert found[1].lines[0] == "Level with the hard-label baseline."


def test_the_spread_over_seeds_belongs_to_how_sure_it_is() -> None:
    assert answers(full())[2].lines[-1] == "Over 2 seeds the student's accuracy is between 94.00% and 94.10%."


def blocks(report: Report, title: str) -> list[Block]:
    """The blocks of a section, those of rows included."""
    (found,) = [each for each in sections.document(report).sections if each.title == title]
    return [inner for block in found.blocks for inner in (block.blocks if isinstance(block, Row) else [block])]


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (0.97, "97.0%, 3.0 points above its accuracy: it is overconfident."),
        (0.9, "90.0%, 4.0 points below its accuracy: it is underconfident."),
        (0.9401, "94.0%, level with its accuracy."),
    ],
)
def test_confidence_is_described_beside_accuracy(confidence: float, words: str) -> None:
    report = plain()
    report.system("student").calibration.examples = [0, 1000]
    report.system("student").calibration.confidence = [0.0, confidence]
    (text, *_) = blocks(report, "Reliability")
    assert isinstance(text, Text) and text.text == f"The student's mean confidence is {words}"


def test_differences_of_too_few_examples_are_not_shown_as_known() -> None:
    """Their differences have no interval; those of a report of an earlier version are not there at all."""
    pairs = (("ensemble", "baseline", 6.0), ("student", "baseline", 4.0), ("student", "ensemble", -2.0))
    report = plain(differences=[difference(*each, None) for each in pairs])
    worth, reached, sure = answers(report)
    assert (worth.short, reached.short) == (
        "Not shown: +6.00 points may be chance",
        "Not shown: the gain may be chance",
    )
    assert worth.lines[0] == "6.00 points above the hard-label baseline (not resolved)." and sure.short == "Unknown"
    (text, *_) = blocks(report, "Reliability")
    assert isinstance(text, Text) and text.text.endswith("points below its accuracy, not resolved at this test size.")
    assert "may be chance" in tables.verdict(report)


def test_planned_beside_actual_where_the_report_has_it() -> None:
    title = "How it went and what it cost"
    (stages, _) = [block for block in blocks(full(), title) if isinstance(block, Table)]
    assert stages.rows == [["stage", "seconds", "from"], ["members", "12.0", "reused"]]
    soft = full().soft_targets.model_dump() | {"planned": {"seconds": 4.0, "bytes": 1_000_000}}
    planned = [{"name": "members", "seconds": 12.0, "reused": False, "planned": {"seconds": 10.0}}]
    found = blocks(full(stages=planned, soft_targets=soft), title)
    assert isinstance(found[0], Text) and "2.0 MB, 3.0 s (planned: 1.0 MB, 4.0 s)" in found[0].text
    (stages, _) = [block for block in found if isinstance(block, Table)]
    assert stages.rows == [["stage", "seconds", "planned", "from"], ["members", "12.0", "10.0", ""]]


def test_how_to_run_it_again() -> None:
    title = "How to run it again"
    code = [block for block in blocks(full(), title) if isinstance(block, Code)]
    assert code[0].text.splitlines()[0] == "stillhouse run config.yaml --set seed=1"
    assert code[1].folded and code[1].text == "name: small\n"
    from_python = full(origin={"config": "name: small\n"}, folder="/my runs/small")
    (first, *_) = [block for block in blocks(from_python, title) if isinstance(block, Code)]
    assert first.text.startswith("stillhouse run '/my runs/small/config.yaml'\nstillhouse report '/my runs/small' ")


def test_errors_that_the_student_inherited() -> None:
    confusions = {
        "ensemble": [[9, 5, 1], [0, 9, 2], [4, 0, 9]],
        "baseline": [[9, 1, 1], [1, 9, 1], [1, 1, 9]],
        "student": [[9, 3, 0], [7, 9, 2], [4, 0, 9]],
    }
    assert shared([], confusions) == [
        Pair("2", "0", {"ensemble": 4, "baseline": 1, "student": 4}),
        Pair("0", "1", {"ensemble": 5, "baseline": 1, "student": 3}),
        Pair("1", "2", {"ensemble": 2, "baseline": 1, "student": 2}),
    ]
    (text, *_, figure, _) = blocks(full(), "Confusion that the student inherited")
    assert isinstance(text, Text) and isinstance(figure, Figure)
    assert text.text == (
        "Of 40 errors of the ensemble the student repeats 15 with the same class and 5 with another, and corrects 20. "
        "It adds 40 of its own."
    )


def test_a_single_member_has_no_curve() -> None:
    text, table = blocks(plain(members=[0.94]), "What each further member was worth")
    assert isinstance(text, Text) and text.text == "The ensemble has one member."
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["system", "member-0"] and not table.folded


def test_examples_are_grouped_by_kind() -> None:
    cards = [block for block in blocks(full(), "Where student and ensemble differ") if isinstance(block, Cards)]
    assert [(each.title, len(each.cards)) for each in cards] == [(title, 1) for title in sections.KINDS.values()]
    (lost,) = cards[0].cards
    assert (lost.name, lost.label, lost.text) == ("example 1303", "sea", "") and lost.image
    assert [(g.system, g.right, list(g.classes)) for g in lost.guesses] == [
        ("ensemble", True, [("sea", "70.0%"), ("sky", "30.0%")]),
        ("student", False, [("sky", "60.0%"), ("sea", "40.0%")]),
    ]
    assert cards[2].cards[0].values == "1.5, -2"
    text = markdown.markdown(full())
    assert "| example 1303 | sea | sky 60.0%, sea 40.0% | sea 70.0%, sky 30.0% | a text of the sea |" in text


def test_a_fence_of_markdown_is_longer_than_any_in_the_code() -> None:
    report = full(origin={"config": "name: |\n  ````\n"})
    assert "`````\nname: |\n  ````\n`````\n" in markdown.markdown(report)


def test_a_name_of_a_class_stays_in_its_cell() -> None:
    """Of a backslash before a bar, Markdown takes neither as the end of the cell."""
    text = markdown.table(Table([["class", "n"], ["a\\|b", "1"], ["a|b", "2"], ["a\\", "3"]]))
    assert text.splitlines()[2:] == [r"| a\\\|b | 1 |", r"| a\|b | 2 |", r"| a\\ | 3 |"]


def test_text_of_the_data_is_shown_and_not_obeyed_as_markdown() -> None:
    """A report loads no picture whose address is in a text of the data, and names keep their letters."""
    shown = example("gained", text="![x](https://host/p.png) `a` $b$ ~c~")
    text = markdown.markdown(full(labels=["*sea*", "__init__", "snake_case"], examples=[shown]))
    assert r"| !\[x\](https://host/p.png) \`a\` \$b\$ \~c\~ |" in text and "![" not in text
    assert r"| \*sea\* |" in text and r"| \_\_init\_\_ |" in text and "| snake_case |" in text
