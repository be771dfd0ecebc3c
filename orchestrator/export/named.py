"""What served students know of the files of the run's data: names and encodings of columns, and the scale of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from workers.data.encoded_tables import Encoding
from workers.specs.data import DataSpec

PIXELS, BYTE_SCALE = ("idx", "images"), 255
"""Kinds of data whose readers divide bytes by a number, and that number. Floats in files of kind `idx` stay."""


def columns(data: DataSpec, encodings: Sequence[Encoding], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """`columns` of the inputs in `export.json`: the columns of texts by name, or those that become the numbers of an
    example, with their encodings. Empty for data without names, and where inputs have names of their own.

    encodings: of the data set. inputs: of the student, as `formats` describes them.
    """
    if inputs["kind"] == "texts" and data.kind == "text":
        return {"columns": list(data.texts_from[: inputs["texts"]])}
    found = encodings if inputs["kind"] == "array" else ()
    is_whole = bool(found) and sum(each.numbers for each in found) == math.prod(inputs["shape"])
    return {"columns": [asdict(each) for each in found]} if is_whole else {}


def numbers(encodings: Sequence[Encoding], shape: Sequence[int]) -> dict[str, Any]:
    """`names` of the numbers of an example of this shape, where each has one; else empty."""
    found = [name for each in encodings for name in each.names or [each.name]]
    return {"names": found} if found and len(found) == math.prod(shape) else {}


def pixels(data: DataSpec, sample: Any) -> dict[str, Any]:
    """`byte_scale` of the inputs, where the run divided bytes of images by it; else empty.

    sample: a batch of examples, an array or a tensor, or `NamedInputs`.
    """
    if data.kind not in PIXELS or not hasattr(sample, "max"):
        return {}
    levels = np.asarray(sample, np.float64) * BYTE_SCALE
    is_scaled = 0 <= levels.min() <= levels.max() <= BYTE_SCALE and np.abs(levels - np.round(levels)).max() < 1e-3
    return {"byte_scale": BYTE_SCALE} if data.kind == "images" or is_scaled else {}
