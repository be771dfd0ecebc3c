"""How rows of soft targets are called in the user's own files.

A run numbers its transfer set from 0: the training examples that remain once validation is drawn, then the unlabelled
ones, each in as many views as there are. What it writes for others is numbered as the data were given: rows 0 to N - 1
of `data.train`, then row j of `data.unlabeled` as N + j, the view beside it, and which element of the example it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.data.arrays import Index
from workers.data.positions import Positions
from workers.data.ragged import Ragged

Views = NDArray[np.int16]


@dataclass(frozen=True)
class RowNames:
    """What P rows of soft targets are of.

    example_ids: [P] int64, rows of the data as they were given. views: [P] int16; None where there is one. positions:
    [P] int32, elements of the example; None where the example as a whole has the distribution.
    """

    example_ids: Index
    views: Views | None = None
    positions: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.example_ids)

    @property
    def columns(self) -> dict[str, pa.Array]:
        """As columns of a file."""
        found = {"example_id": self.example_ids, "view": self.views, "position": self.positions}
        return {name: pa.array(values) for name, values in found.items() if values is not None}


@dataclass(frozen=True)
class Numbering:
    """From ids of the transfer set to rows as they were given.

    examples: of the transfer set, one view of it. kept: the rows [n] of `data.train`, ascending, that train; None where
    all do. given: rows of `data.train`. positions: the elements of each example that have rows of their own.
    """

    examples: int
    views: int = 1
    kept: Index | None = None
    given: int = 0
    positions: Ragged | None = field(default=None, repr=False)

    def of(self, ids: Index) -> RowNames:
        """What the rows of the transfer set's `ids` [n] are of, one example after another."""
        names, views = self.example_ids(ids), self.view_of(ids)
        if self.positions is None:
            return RowNames(names, views)
        where = self.positions[ids % self.examples]
        return RowNames(
            np.repeat(names, where.lengths),
            None if views is None else np.repeat(views, where.lengths),
            where.flat.astype(np.int32),
        )

    @cached_property
    def rows(self) -> Positions:
        """How many rows each example has."""
        return Positions(self.examples, None if self.positions is None else self.positions.lengths)

    def example_ids(self, ids: Index) -> Index:
        """`example_id` [n] int64 of the transfer set's `ids` [n]."""
        rows = ids % self.examples
        if self.kept is None:
            return rows
        trains = rows < len(self.kept)
        return np.where(trains, self.kept[np.where(trains, rows, 0)], rows - len(self.kept) + self.given)

    def view_of(self, ids: Index) -> Views | None:
        """`view` [n] int16 of the transfer set's `ids` [n]; None where there is one view."""
        return None if self.views == 1 else (ids // self.examples).astype(np.int16)

    def digest(self) -> str:
        """sha256 of the numbering; empty where rows are numbered as they are."""
        if self.kept is None:
            return ""
        return hashlib.sha256(f"{self.given} ".encode() + self.kept.tobytes()).hexdigest()
