"""The model card of an export is Markdown, whatever the names of classes and packages hold."""

from __future__ import annotations

import pytest

from orchestrator.export import card
from orchestrator.export.lineage import Lineage
from orchestrator.export.measure import Agreement, Measured
from orchestrator.reporting.statistics import Difference
from tests.reports import full

EVIL = "<img src=x onerror=alert(1)>\n## a|b"


@pytest.fixture
def text() -> str:
    same = Difference("student", "student", 0.0, None, None)
    measured = Measured(
        examples=1000,
        figures={"accuracy": 0.9, "nll": 0.5, "ece": 0.1},
        intervals={},
        over_student=same,
        over_ensemble=same,
        share=0.9,
        share_interval=None,
        level=0.95,
        student_share=0.9,
        correct={"export": 9, "student": 9, "ensemble": 10},
        latency_ms={"p50": 1.0, "p99": 2.0},
        per_second=100.0,
        parameters=10,
        bytes=40,
        agreement=Agreement(examples=10, difference=0.0, same_class=1.0),
    )
    lineage = Lineage(
        run="small", seed=0, folder="/runs/a|b", configuration="ab", student="cd", soft_targets="", members={}, data={},
        code={}, trained_by={"torch": "2"}, exported_by={},
    )  # fmt: skip
    about = {"format": "onnx", "quantized": None, "inputs": {"kind": "array", "shape": [4], "dtype": "float32"}}
    return card.card(about, measured, lineage, full([EVIL, "sky"]), licence=None)


def test_names_of_classes_are_text(text: str) -> None:
    assert "<img" not in text and "\n## a" not in text
    assert "Classes: &lt;img src=x onerror=alert(1)&gt; ## a\\|b, sky." in text


def test_it_links_to_no_page_that_may_not_exist(text: str) -> None:
    assert "members by Stillhouse. It has 10 parameters in 40 bytes" in text and "](http" not in text


def test_names_with_commas_are_in_quotation_marks() -> None:
    assert card._listed(["42", "a, b"]) == '"42", "a, b"' and card._listed(["a", "b"]) == "a, b"


def test_a_cell_is_in_its_column(text: str) -> None:
    assert r"| folder | `/runs/a\|b` |" in text


def test_the_example_has_as_many_texts_as_the_student_takes() -> None:
    assert card._example({"kind": "texts", "texts": 1}) == '["a text", "another"]'
    assert card._example({"kind": "texts", "texts": 2}) == '[("a text", "another")]'
