"""Test examples in a report: texts in one line, arrays as small pictures or numbers, positions within an example."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.reporting import differing
from orchestrator.reporting.differing import Look
from orchestrator.reporting.report import DifferingExample
from workers.data import texts
from workers.data.encoded_tables import Encoding
from workers.data.examples import Columns, Examples
from workers.data.positions import Positions
from workers.data.ragged import Ragged
from workers.evaluation.agreement import Row


def row(number: int) -> Row:
    return Row(kind="lost", row=number, label=0, ensemble=[(0, 1.0)], student=[(1, 1.0)], divergence=1.0)


def shown(x: Examples, number: int = 1, shape: tuple[int, ...] | None = None) -> DifferingExample:
    (found,) = differing.examples([row(number)], x, Positions(len(x)), Look(shape))
    return found


def opened(content: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_a_text_is_one_line_of_bounded_length() -> None:
    x = Columns({"text": texts.of_strings(["first", "a  text\nof\x00two\tlines", "ab " * 400])})
    found = shown(x)
    assert (found.example, found.position, found.text) == (1, None, "a text of two lines")
    assert not found.image and not found.values
    cut = shown(x, 2).text
    assert len(cut) <= differing.LETTERS and cut.endswith("ab…")


def test_both_texts_of_a_pair_are_shown() -> None:
    pair = {name: texts.of_strings(["-", f"the {name}"]) for name in ("text", "text_pair")}
    assert shown(Columns(pair)).text == "the text / the text_pair"


@pytest.mark.parametrize(
    ("shape", "image_shape", "expected"),
    [
        ((12, 10), None, (12, 10)),
        ((1, 12, 10), None, (12, 10)),
        ((12, 10, 1), None, (12, 10)),
        ((3, 12, 10), None, (12, 10, 3)),
        ((12, 10, 3), None, (12, 10, 3)),
        ((120,), (12, 10), (12, 10)),
        ((360,), (3, 12, 10), (12, 10, 3)),
        ((3, 200, 100), None, (64, 32, 3)),
    ],
)
def test_arrays_of_one_or_three_channels_are_pictures(
    shape: tuple[int, ...], image_shape: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    assert opened(shown(x, shape=image_shape).image).shape == expected


def test_a_picture_keeps_its_values() -> None:
    levels = np.stack([np.zeros((8, 8)), np.linspace(0, 1, 64).reshape(8, 8)])
    expected = np.round(255 * levels[1]).astype(np.uint8)
    np.testing.assert_array_equal(opened(shown(levels.astype(np.float64)).image), expected)
    np.testing.assert_array_equal(opened(shown((255 * levels).round().astype(np.uint8)).image), expected)
    np.testing.assert_array_equal(opened(shown(levels * 7 - 3).image), expected)  # of another scale
    assert opened(shown(np.full((2, 8, 8), 5.0)).image).max() == 0  # all alike


@pytest.mark.parametrize("shape", [(120,), (2, 4), (5, 12, 10), (2, 3, 4, 5), (4, 9, 3)])
def test_all_other_arrays_are_numbers(shape: tuple[int, ...]) -> None:
    x = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
    found = shown(x, shape=(28, 28))
    assert not found.image and found.values[0] == x[1].flat[0] and len(found.values) <= differing.VALUES


def test_a_row_of_a_table_has_the_names_of_its_columns() -> None:
    age = Encoding("age", 30.0, flagged=True)
    city = Encoding("city", categories=("", "Bern", "Rome"))
    marks = Encoding("marks", 0.0, width=2)
    x = np.array([[30, 1, 1, 0, 0, 3, 4], [20.25, 0, 0, 0, 1, 1.00001, 2], [20, 0, 0, 0, 0, 1, 2]], np.float32)

    def text(number: int, *encodings: Encoding) -> str:
        (found,) = differing.examples([row(number)], x, Positions(len(x)), Look(None, encodings))
        assert bool(found.values) == (not found.text)
        return found.text

    assert text(0, age, city, marks) == "age is empty, city is empty, marks=[3, 4]"
    assert text(1, age, city, marks) == "age=20.25, city=Rome, marks=[1, 2]"
    assert text(2, age, city, marks) == "age=20, city is new, marks=[1, 2]"
    assert text(2, age, city) == "", "the numbers are not those of the columns"


def test_values_that_are_no_numbers_are_left_out() -> None:
    assert shown(np.array([[0.0, 0.0, 0.0], [np.nan, 1.5, np.inf]])).values == [1.5]


def test_an_example_of_one_number_is_shown() -> None:
    assert shown(np.array([0.5, 1.5, 2.5], np.float32)).values == [1.5]
    assert shown(Columns({"user": np.array([7, 8, 9])})).values == [8.0]


def test_a_position_within_an_example() -> None:
    ids = Ragged.of([np.arange(3), np.arange(10, 40)])
    positions = Ragged.of([np.array([0]), np.array([4, 20])])
    x = Columns({"input_ids": ids}, positions)
    (found,) = differing.examples([row(2)], x, Positions(2, positions.lengths), Look())
    assert (found.example, found.position) == (1, 20)
    assert found.values == [26.0, 27.0, 28.0, 29.0, 30.0, 31.0, 32.0, 33.0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb\n\tc\x00", "a b c"),
        ("\U0001f469\u200d\U0001f52c works", "\U0001f469\u200d\U0001f52c works"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("b" * 300, "b" * 279 + "…"),
    ],
    ids=["controls", "emoji", "persian", "long"],
)
def test_a_text_is_one_line_with_its_joined_letters(text: str, shown: str) -> None:
    assert differing.shortened(text) == shown
