"""Test examples on which student and ensemble differ, as a report shows them.

An example is a text, a small picture, a table's row with the names of its columns, or the first of its values.

What is kept of an example is bounded, so that a report stays small: `LETTERS`, `SIDE` pixels, `VALUES` numbers.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.reporting.report import DifferingExample
from workers.data import texts
from workers.data.encoded_tables import Encoding
from workers.data.examples import Examples, columns_of, explicit_positions
from workers.data.positions import Positions
from workers.data.ragged import Ragged
from workers.evaluation.agreement import Row

LETTERS, SIDE, VALUES = 280, 64, 8
"""Most characters of a text, pixels of a picture's longer side, and numbers of any other example."""
FEWEST = 8
"""Pixels of the shorter side of an array that is drawn; smaller ones are numbers."""
CHANNELS = (1, 3)
JOINERS = "\u200c\u200d"
"""Characters without a shape that change that of their neighbours: in emoji, in Persian and Indic scripts."""


@dataclass(frozen=True)
class Look:
    """What an example that is a row of numbers means. image_shape: of a picture's pixels; None: it is none.
    encodings: the columns of a table; none of other data."""

    image_shape: tuple[int, ...] | None = None
    encodings: Sequence[Encoding] = ()


def examples(rows: Sequence[Row], x: Examples, positions: Positions, look: Look) -> list[DifferingExample]:
    """The examples of some rows of the test split.

    x: the inputs of the split as the data has them, with texts. positions: the rows of each example.
    """
    return [_example(each, x, positions, look) for each in rows]


def _example(row: Row, x: Examples, positions: Positions, look: Look) -> DifferingExample:
    number = positions.example_of(row.row)
    first = int(positions.rows(np.array([number]))[0])
    where = explicit_positions(x)
    offset = row.row - first
    position = (
        None if positions.is_one_each else offset if where is None else int(where[number : number + 1].flat[offset])
    )
    columns = columns_of(x[number : number + 1])
    held = [c for name, c in columns.items() if isinstance(c, Ragged) and texts.is_text(name, c)]
    values = _values(next(iter(columns.values())))
    image = "" if held else picture(values, look.image_shape)
    named = [] if held or image else _named(values, look.encodings)
    text = shortened(" / ".join(texts.strings(column)[0] for column in held) or ", ".join(named))
    flat = [] if text or image else [float(f"{value:.4g}") for value in _flat(values, position)]
    return DifferingExample(
        kind=row.kind,
        example=number,
        position=position,
        label=row.label,
        ensemble=row.ensemble,
        student=row.student,
        divergence=row.divergence,
        text=text,
        image=image,
        values=[value for value in flat if math.isfinite(value)],
    )


def _named(values: NDArray[np.generic], encodings: Sequence[Encoding]) -> list[str]:
    """The columns of a table with their values; none where the numbers are not those of the columns."""
    if not encodings or values.shape != (sum(each.numbers for each in encodings),):
        return []
    ends = list(itertools.accumulate(each.numbers for each in encodings))
    numbers = values.tolist()
    return [each.shown(numbers[end - each.numbers : end]) for each, end in zip(encodings, ends, strict=True)]


def shortened(text: str, most: int = LETTERS) -> str:
    """A text in one line, cut after so many characters."""
    line = " ".join("".join(each if each.isprintable() or each in JOINERS else " " for each in text).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def _values(column: object) -> NDArray[np.generic]:
    """The values of the one example of a column: its shape, at least [1], or of a ragged column [length, ...]."""
    if isinstance(column, Ragged):
        return column.flat
    found: NDArray[np.generic] = np.atleast_1d(np.asarray(column)[0])
    return found


def _flat(values: NDArray[np.generic], position: int | None) -> Sequence[float]:
    """The first values; those around a position within the example."""
    start = 0 if position is None else max(0, position - VALUES // 2)
    if values.dtype.kind not in "biuf":
        return []
    rows = values if values.ndim == 1 else values[start : start + 1].reshape(-1)
    begin = start if values.ndim == 1 else 0
    found: Sequence[float] = rows[begin : begin + VALUES].astype(np.float64).tolist()
    return found


def picture(values: NDArray[np.generic], image_shape: tuple[int, ...] | None) -> str:
    """A PNG in base64 of an array of pixels with 1 or 3 channels; empty where it is none."""
    from PIL import Image

    pixels = _pixels(values, image_shape)
    if pixels is None:
        return ""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def _pixels(values: NDArray[np.generic], image_shape: tuple[int, ...] | None) -> NDArray[np.uint8] | None:
    """The array as [height, width] or [height, width, 3], 0 to 255; None where its shape or type is no picture's.

    Values between 0 and 1 keep their scale; others are scaled by the least and the largest of them.
    """
    if values.dtype.kind not in "buf" and not (values.dtype.kind == "i" and values.min() >= 0):
        return None
    if image_shape is not None and values.size == math.prod(image_shape):
        values = values.reshape(image_shape)
    if values.ndim == 3 and values.shape[0] in CHANNELS and values.shape[2] not in CHANNELS:
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if not is_picture or min(values.shape[:2]) < FEWEST:
        return None
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values).view(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float64))
    low, high = min(0.0, float(numbers.min())), max(1.0, float(numbers.max()))
    if low < 0 or high > 1:
        low, high = float(numbers.min()), float(numbers.max())
    return np.round(255 * (numbers - low) / ((high - low) or 1.0)).astype(np.uint8)
