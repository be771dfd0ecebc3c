"""The columns of a table that `load.py` takes by their names, as the run read them from the files of its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from workers.data.encoded_tables import Encoding
from workers.specs.data import DataSpec


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
