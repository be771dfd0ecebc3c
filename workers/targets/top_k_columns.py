"""Conversion of `TopK` to Arrow columns and back, and the Parquet options that compress them best.

It is separate from the maths, which imports only torch. The columns are readable with plain pyarrow: `top_ids` and
`top_probabilities`, fixed-size lists of int32 and of float16 or float32, and `tail` float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from workers.targets.top_k import TopK

WRITE_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": False,
    "write_statistics": False,
    "column_encoding": {
        "example_id": "DELTA_BINARY_PACKED",
        "top_ids.list.element": "BYTE_STREAM_SPLIT",
        "top_probabilities.list.element": "BYTE_STREAM_SPLIT",
        "tail": "BYTE_STREAM_SPLIT",
    },
}
"""For `pyarrow.parquet.write_table` of `example_id` and `columns`. Byte stream split puts the equal high bytes side by
side: a row takes 56 bytes at k = 16 instead of 62 (66 with delta-packed ids; 106 uncompressed)."""


def columns(targets: TopK) -> dict[str, pa.Array]:
    """Arrow columns of `targets`, in the order of the file; views of tensors in main memory."""
    k = targets.ids.shape[1]
    return {
        "top_ids": _lists(_array(targets.ids), k),
        "top_probabilities": _lists(_array(targets.probabilities), k),
        "tail": _array(targets.tail),
    }


def from_table(table: pa.Table, temperature: float = 1.0) -> TopK:
    """Copy the rows of a table with `columns`, softened at T, in the table's order (not by `example_id`)."""
    ids, probabilities = (_flat(table, name) for name in ("top_ids", "top_probabilities"))
    k = table.schema.field("top_ids").type.list_size
    return TopK(ids.view(-1, k), probabilities.view(-1, k), _flat(table, "tail"), temperature)


def _flat(table: pa.Table, name: str) -> Tensor:
    column = table.column(name).combine_chunks()
    values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    return torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False)))


def _array(values: Tensor) -> pa.Array:
    return pa.array(values.detach().cpu().contiguous().view(-1).numpy())


def _lists(values: pa.Array, k: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(pa.field("element", values.type, nullable=False), k))
