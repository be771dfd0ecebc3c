"""How `load.py` takes examples as the run read them from its files: columns by their names, and the scale of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from workers.data.collate import Inputs
from workers.data.encoded_tables import Encoding
from workers.specs.data import DataSpec

PIXELS, BYTE_SCALE = ("idx", "images"), 255
"""Kinds of data whose readers divide bytes by that number; those of type float in files of kind `idx` stay."""


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


def pixels(data: DataSpec, sample: Inputs) -> dict[str, Any]:
    """`byte_scale` of the inputs in `export.json`, where the run divided bytes of images by it; else empty.

    sample: a batch of examples.
    """
    is_scaled = data.kind in PIXELS and isinstance(sample, Tensor) and float(sample.max()) <= 1
    return {"byte_scale": BYTE_SCALE} if is_scaled else {}
