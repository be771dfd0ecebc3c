"""How each kind of targets is computed from the teachers' mean, and its Parquet format: a table by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from workers.artifacts.parts import PLAIN
from workers.targets import top_k_columns
from workers.targets.base import Targets, array
from workers.targets.dense import Dense
from workers.targets.top_k import TopK, compress

DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Format:
    """The file format of one kind, without the columns that identify examples."""

    targets: type[Targets]
    mark: str
    """A column that only files of this kind have."""
    columns: Callable[[Any], dict[str, pa.Array]]
    read: Callable[[pa.Table, float], Targets]
    """Reads rows that are softened at a T, in the order of the table."""
    options: dict[str, Any] = field(default_factory=lambda: PLAIN)
    """Options for `pyarrow.parquet.write_table`."""


def _dense_columns(targets: Dense) -> dict[str, pa.Array]:
    values = pa.array(array(targets.probabilities).reshape(-1))
    return {"probabilities": pa.FixedSizeListArray.from_arrays(values, targets.probabilities.shape[1])}


def _read_dense(table: pa.Table, temperature: float) -> Dense:
    values = table.column("probabilities").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return Dense(torch.from_numpy(values), temperature)


KINDS: dict[str, Format] = {
    Dense.kind: Format(Dense, "probabilities", _dense_columns, _read_dense),
    TopK.kind: Format(TopK, "top_ids", top_k_columns.columns, top_k_columns.from_table, top_k_columns.WRITE_OPTIONS),
}


def kind_of(top_k: int | None) -> str:
    """The kind of targets in a store with this `distillation.top_k`."""
    return Dense.kind if top_k is None else TopK.kind


def of_mean(probabilities: Tensor, dtype: str, top_k: int | None, temperature: float = 1.0) -> Targets:
    """Soft targets in their stored form, from the mean [n, K] float32 at T.

    They are cast to `dtype`, and reduced to the `top_k` largest probabilities unless it is None.
    """
    if top_k is None:
        return Dense(torch.from_numpy(probabilities.numpy().astype(np.dtype(dtype), copy=False)), temperature)
    return compress(probabilities, top_k, DTYPES[dtype], temperature)


def read(table: pa.Table, temperature: float) -> Targets:
    """The targets of a table, of whatever kind, in the table's order."""
    found = next(kind for kind in KINDS.values() if kind.mark in table.column_names)
    return found.read(table, temperature)
