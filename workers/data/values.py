"""Whether the splits' inputs belong together by the type and range of their numbers, and whether models want others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from workers.data.arrays import Inputs, chunks
from workers.data.scan import Found
from workers.errors import RequestError

GROSS = 10.0
"""Ratio of two splits' root mean squares from which on they are hardly scaled alike."""
BELOW = -0.25
"""What scaling to [0, 1] hardly makes of another split of the same data."""
PIXELS = 16
"""Numbers an example from which on whole floats may be an image."""


def check_types(inputs: Mapping[str, Inputs]) -> None:
    """Raise `RequestError` where two splits hold numbers of different types.

    Floats of any width may mix: models take them all as float32.
    """
    first = inputs["train"]
    for name, x in inputs.items():
        if x.dtype.newbyteorder("=") != first.dtype.newbyteorder("=") and not x.dtype.kind == first.dtype.kind == "f":
            raise RequestError(
                f"data.{name}: x is {x.dtype} with values {_range(x)}, and x of data.train {first.dtype} with values "
                f"{_range(first)}. Expected one type in all splits, since models take floats and uint8 as float32 and "
                "other integers as int64 ids. Convert one as the other was."
            )


def _range(x: Inputs) -> str:
    ends = [(float(values.min()), float(values.max())) for _, values in chunks(x)]
    return _from_to(min(low for low, _ in ends), max(high for _, high in ends))


def _from_to(low: float, high: float) -> str:
    return f"from {low:.6g} to {high:.6g}"


def check_ranges(found: Mapping[str, Found]) -> list[str]:
    """Notes on splits that are scaled differently.

    Raises: `RequestError` where one has bytes of pixels and another the unit interval.
    """
    first, notes = found["train"], []
    for name, other in found.items():
        ranges = f"values {_from_to(other.low, other.high)}, and data.train {_from_to(first.low, first.high)}"
        if (_is_bytes(first) and _is_unit(other)) or (_is_unit(first) and _is_bytes(other)):
            raise RequestError(
                f"data.{name} has {ranges}: one is in bytes and the other in [0, 1]. Expected all splits scaled alike; "
                "divide the one by 255."
            )
        if (_is_unit(first) and other.low < BELOW) or (_is_unit(other) and first.low < BELOW):
            notes.append(f"data.{name} has {ranges}: one is in [0, 1]. Check that all splits are scaled alike.")
            continue
        ratio = max(first.rms, other.rms) / max(min(first.rms, other.rms), math.ulp(0.0))
        if ratio >= GROSS and first.rms > 0 and other.rms > 0:
            notes.append(
                f"data.{name} has {ranges}: root mean squares of {other.rms:.3g} and {first.rms:.3g}, {ratio:,.0f} "
                "times apart. Check that all splits are scaled alike."
            )
    return notes


def _is_bytes(found: Found) -> bool:
    return found.low >= 0 and 100 <= found.high <= 255


def _is_unit(found: Found) -> bool:
    return found.low >= 0 and 0 < found.high <= 1


def pixels(x: Inputs, found: Found) -> list[str]:
    """A note where the training inputs look like images in bytes.

    Whole numbers alone are no sign of it: integers [N, L] are ids, and few columns are a table.
    """
    shape = x.shape[1:]
    image = len(shape) > 1 or x.dtype == np.uint8 or (x.dtype.kind == "f" and math.prod(shape) >= PIXELS)
    if not (image and _is_bytes(found) and (found.whole or len(shape) > 1)):
        return []
    return [
        f"data.train: values {_from_to(found.low, found.high)} look like pixels in bytes; networks usually learn "
        "better from [0, 1]. Divide x by 255 in every split, unless the model does."
    ]
