"""Examples on which networks may compute NaN.

They are rows of zeros, constant rows, and rows of very large and very small values, such as ids for which a network may
have no embedding; of rows of different lengths also the shortest and the longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import ROWS_AT_ONCE, Index
from workers.data.column import Column
from workers.data.dataset import Dataset
from workers.data.examples import Examples, columns_of
from workers.data.ragged import Ragged
from workers.data.texts import is_text

OF_EACH = 12
"""Rows taken per oddity and split."""
VALUES = 2**26
"""About how many numbers of a split are inspected; a larger split is sampled in blocks spread over it."""
Measured = tuple[Index, dict[str, NDArray[Any]]]
"""Inspected rows [n], and per oddity one measure [n]: a smaller value is odder."""


@dataclass(frozen=True)
class OddRow:
    """An example and its oddity. row: as of `Dataset.given_row`. x: a single example as the data has it."""

    split: str
    row: int
    oddity: str
    x: Examples = field(repr=False)

    @property
    def trains(self) -> bool:
        return self.split == "train"

    def __str__(self) -> str:
        return f"example {self.row} of the {self.split} split ({self.oddity})"


def odd_rows(dataset: Dataset) -> list[OddRow]:
    """The oddest rows of every split, by rank: the oddest row of each oddity comes before all second ones."""
    splits: dict[str, Examples] = {name: getattr(dataset, name).x for name in ("train", "validation", "test")}
    if dataset.unlabeled is not None:
        splits["unlabeled"] = dataset.unlabeled
    found = [
        (rank, OddRow(name, dataset.given_row(name, row), oddity, x[row : row + 1]))
        for name, x in splits.items()
        for column_name, column in columns_of(x).items()
        for rank, row, oddity in _oddest(column_name, column)
    ]
    return [row for _, row in sorted(found, key=lambda each: each[0])]


def _oddest(name: str, x: Column | Ragged) -> list[tuple[int, int, str]]:
    """Rank, row and oddity of the oddest rows; each row appears once. name: of the column."""
    if not isinstance(x, Ragged):
        inspected = [_measures(x)]
    else:
        inspected = [_lengths(x), *([] if is_text(name, x) else [_extremes(x)])]
    found: dict[int, tuple[int, int, str]] = {}
    for rows, measures in inspected:
        most = min(OF_EACH, len(rows))
        for oddity, measure in measures.items():
            order = np.argpartition(measure, most - 1)[:most]
            for rank, k in enumerate(order[np.argsort(measure[order], kind="stable")].tolist()):
                row = int(rows[k])
                if row not in found or rank < found[row][0]:
                    exact = (words for each, words in EXACT.items() if each in measures and measures[each][k] == 0)
                    found[row] = (rank, row, next(exact, oddity))
    return list(found.values())


EXACT = {"smallest norm": "all zeros", "smallest spread": "one value throughout"}
"""The name of an oddity in messages when its measure is exactly 0."""


def _lengths(x: Ragged) -> Measured:
    lengths = x.lengths.astype(np.float32)
    return np.arange(len(x)), {"shortest": lengths, "longest": -lengths}


def _extremes(x: Ragged) -> Measured:
    rows, tops, bottoms = [], [], []
    for some in _stretches(len(x), math.ceil(x.lengths.mean() * math.prod(x.of_value))):
        block = x[some]
        values, starts = block.flat.reshape(len(block.flat), -1), np.cumsum(block.lengths) - block.lengths
        rows.append(np.arange(some.start, some.stop))
        tops.append(np.maximum.reduceat(values.max(axis=1), starts).astype(np.float64))
        bottoms.append(np.minimum.reduceat(values.min(axis=1), starts).astype(np.float64))
    return np.concatenate(rows), {"largest value": -np.concatenate(tops), "smallest value": np.concatenate(bottoms)}


def _measures(x: Column) -> Measured:
    rows, norms, spreads, tops, bottoms = [], [], [], [], []
    for some in _stretches(len(x), math.prod(x.shape[1:])):
        values = x[some]
        flat = values.reshape(len(values), -1).astype(np.float32, copy=False)
        rows.append(np.arange(some.start, some.stop))
        norms.append(np.sqrt(np.einsum("nd,nd->n", flat, flat)))
        tops.append(flat.max(axis=1))
        bottoms.append(flat.min(axis=1))
        spreads.append(tops[-1] - bottoms[-1])
    norm, spread, top, bottom = (np.concatenate(each) for each in (norms, spreads, tops, bottoms))
    return np.concatenate(rows), {
        "smallest norm": norm,
        "smallest spread": spread,
        "largest norm": -norm,
        "largest value": -top,
        "smallest value": bottom,
    }


def _stretches(count: int, values: int) -> Iterator[slice]:
    """Stretches of `count` rows of about so many values each, spread over all of them where they are too many."""
    size = max(1, min(ROWS_AT_ONCE, VALUES // (16 * max(1, values))))
    starts = np.arange(0, count, size)
    most = max(1, VALUES // (size * max(1, values)))
    for start in starts if len(starts) <= most else starts[np.linspace(0, len(starts) - 1, most).astype(np.int64)]:
        yield slice(int(start), min(int(start) + size, count))
