"""The tables of a report as text: figures of any size."""

from __future__ import annotations

import pytest

from orchestrator.observers import layout
from orchestrator.reporting import markdown, tables
from orchestrator.reporting import report as reports
from tests.reports import full, plain


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0123456, "0.0123"), (12.0, "12"), (999.4, "999"), (999.6, "1,000"), (1234.5, "1,234"),
     (5e6, "5,000,000")],
)  # fmt: skip
def test_a_large_figure_has_no_exponent(value: float, shown: str) -> None:
    assert tables.significant(value) == shown
    assert tables.significant(-value).lstrip("-") == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1005, "1k"), (999_499, "999k"), (999_700, "1M"), (1_234_567, "1.23M"),
     (999_950_000, "1B"), (2 * 10**12, "2,000B")],
)  # fmt: skip
def test_a_count_is_rounded_before_its_letter_is_chosen(count: int, shown: str) -> None:
    assert tables.short_count(count) == shown


def test_other_metrics_have_no_exponent_either() -> None:
    assert [tables.number("length", value) for value in (0.123456, 12345.6)] == ["0.1235", "12,346"]
    assert tables.hours(None) == tables.hours(0.0) == "-" and tables.hours(1234.5) == "1,234"


@pytest.mark.parametrize(
    ("metric", "shown"),
    [("rate", "50.00%"), ("word_error_rate", "50.00%"), ("rate-of-hits", "50.00%"), ("hit rate@5", "50.00%"),
     ("calibrated_nll", "0.5"), ("generated_tokens", "0.5"), ("accurate", "0.5")],
)  # fmt: skip
def test_a_rate_is_a_percentage_and_what_holds_these_letters_is_not(metric: str, shown: str) -> None:
    assert tables.number(metric, 0.5) == shown


def test_metrics_of_a_run_have_a_table_of_their_intervals() -> None:
    assert tables.own_metrics(plain()) == []
    found = plain()
    for each in found.systems:
        more = {} if each.role == "baseline" else {"word_error_rate_interval": (0.101, 0.2)}
        each.test = reports.TestMetrics.model_validate(each.test.model_dump() | {"word_error_rate": 0.15} | more)
    read = reports.Report.model_validate_json(found.model_dump_json())  # as in a run's folder
    assert read.extra_metrics == ["word_error_rate"]
    assert tables.own_metrics(read) == [
        ["system", "word error rate", "95% interval"],
        ["ensemble", "15.00%", "10.10% to 20.00%"],
        ["baseline", "15.00%", "-"],
        ["student", "15.00%", "10.10% to 20.00%"],
    ]
    assert "10.10% to 20.00%" in markdown.markdown(read)


def test_a_paper_that_states_its_gain_alone_is_shown_with_it() -> None:
    found = plain(paper={"source": "a paper", "gain_transferred": 0.9})
    assert tables.beside_paper(found) == [["system", "paper", "here"], ["gain transferred", "90.0%", "66.7%"]]
    more = plain(paper={"source": "a paper", "student": {"accuracy": 0.9}})
    assert [len(row) for row in tables.beside_paper(more)] == [3] * 5


def test_the_worth_of_members_has_scores_of_probabilities_and_two_parts_on_a_terminal() -> None:
    trained = {"core_hours": 0.00278, "adds": 0.002}
    worth = [each.model_dump() | trained | {"nll": 0.3 - k / 10} for k, each in enumerate(full().worth)]
    curve = [{"members": k, "accuracy": 0.94, "nll": 0.5, "spread": 0.0012} for k in (1, 2)]
    rows = tables.worth(full(worth=worth, curve=curve))
    nll = rows[0].index("nll")
    assert [row[nll : nll + 2] for row in rows] == [["nll", "ece"], ["0.3000", "0.0100"], ["0.2000", "0.0100"]]
    assert len(list(layout.parts(rows, 80))) == 2
