"""Checks whether the splits' inputs agree in dtype and range, and whether images need scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from workers.data.arrays import chunks
from workers.data.examples import AnyColumn, Examples, X, columns_of
from workers.data.ragged import Ragged
from workers.data.scan import Found, Range
from workers.errors import RequestError

GROSS = 10.0
"""Ratio of two splits' root mean squares above which they probably differ in scaling."""
BELOW = -0.25
"""A minimum below this is implausible in a split when another split is scaled to [0, 1]."""
PIXELS = 16
"""Fewest numbers per example for which whole-numbered floats may be an image."""


def check_types(inputs: Mapping[str, Examples]) -> None:
    """Raise `RequestError` where two splits have different dtypes.

    Floats of different widths are allowed, since models convert them to float32.
    """
    for name, x in inputs.items():
        for column, values in columns_of(x).items():
            _check_types(name, column, values, columns_of(inputs["train"])[column])


def _check_types(name: str, column: str, x: AnyColumn, first: AnyColumn) -> None:
    if x.dtype.newbyteorder("=") != first.dtype.newbyteorder("=") and not x.dtype.kind == first.dtype.kind == "f":
        raise RequestError(
            f"data.{name}: {column} is {x.dtype} with values {_range(x)}, and {column} of data.train {first.dtype} "
            f"with values {_range(first)}. Expected one type in all splits, since models take floats and uint8 as "
            "float32 and other integers as int64 ids. Convert one as the other was."
        )


def _range(x: AnyColumn) -> str:
    blocks = [x.flat] if isinstance(x, Ragged) else [values for _, values in chunks(x)]
    ends = [(float(values.min()), float(values.max())) for values in blocks]
    return _from_to(min(low for low, _ in ends), max(high for _, high in ends))


def _from_to(low: float, high: float) -> str:
    return f"from {low:.6g} to {high:.6g}"


def check_ranges(found: Mapping[str, Found], train: Examples) -> list[str]:
    """Notes on splits that are scaled differently. found: the splits as they were given. train: their first.

    A column with one number per example is left out, since the range of a count or a flag differs by chance.

    Raises: `RequestError` where one has pixel values up to 255 and another the unit interval.
    """
    several = [name for name, c in columns_of(train).items() if isinstance(c, Ragged) or math.prod(c.shape[1:]) > 1]
    return [
        note
        for name, other in found.items()
        for column in several
        for note in _compared(
            _key(name, column), other.ranges[column], _key("train", column), found["train"].ranges[column]
        )
    ]


def _key(split: str, column: str) -> str:
    """The name of a split's column in messages."""
    return f"data.{split}" if column == X else f"data.{split}, column '{column}'"


def _compared(name: str, other: Range, train: str, first: Range) -> list[str]:
    ranges = f"values {_from_to(other.low, other.high)}, and {train} {_from_to(first.low, first.high)}"
    if (_is_bytes(first) and _is_unit(other)) or (_is_unit(first) and _is_bytes(other)):
        raise RequestError(
            f"{name} has {ranges}: one is in bytes and the other in [0, 1]. Expected all splits scaled alike; "
            "divide the one by 255."
        )
    if (_is_unit(first) and other.low < BELOW) or (_is_unit(other) and first.low < BELOW):
        return [f"{name} has {ranges}: one is in [0, 1]. Check that all splits are scaled alike."]
    ratio = max(first.rms, other.rms) / max(min(first.rms, other.rms), math.ulp(0.0))
    if ratio < GROSS or first.rms == 0 or other.rms == 0:
        return []
    return [
        f"{name} has {ranges}: root mean squares of {other.rms:.3g} and {first.rms:.3g}, {ratio:,.0f} "
        "times apart. Check that all splits are scaled alike."
    ]


def _is_bytes(found: Range) -> bool:
    return found.low >= 0 and 100 <= found.high <= 255


def _is_unit(found: Range) -> bool:
    return found.low >= 0 and 0 < found.high <= 1


def pixels(x: Examples, found: Found) -> list[str]:
    """A note where the training inputs look like images in bytes.

    Whole numbers are not sufficient: integers [N, L] are ids, and a few columns are a table.
    """
    notes = []
    for column, values in columns_of(x).items():
        seen = found.ranges[column]
        if isinstance(values, Ragged) or not _is_image(values.shape[1:], values.dtype, seen):
            continue
        notes.append(
            f"{_key('train', column)}: values {_from_to(seen.low, seen.high)} look like pixels in bytes; networks "
            "usually learn better from [0, 1]. Divide them by 255 in every split, unless the model does."
        )
    return notes


def _is_image(shape: tuple[int, ...], dtype: np.dtype[Any], found: Range) -> bool:
    may_be = len(shape) > 1 or dtype == np.uint8 or (dtype.kind == "f" and math.prod(shape) >= PIXELS)
    return may_be and _is_bytes(found) and (found.whole or len(shape) > 1)
