"""Maps rows of soft targets to rows of the user's own data.

Within a run, the transfer set is numbered from 0: the training examples without the drawn validation split, then the
unlabelled ones, in each view. Files for the user have the numbers of the user's data: rows 0 to N - 1 of `data.train`,
N + j for row j of `data.unlabeled`, with separate columns for the view, or masked copy, and for the element.
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
    """Identifies P rows of soft targets.

    example_ids: [P] int64, rows of the user's data. views: [P] int16, versions or masked copies of these; None for a
    single one. positions: [P] int32, elements of the example; None where each example has one distribution.
    """

    example_ids: Index
    views: Views | None = None
    positions: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.example_ids)

    @property
    def columns(self) -> dict[str, pa.Array]:
        """The columns for a file."""
        found = {"example_id": self.example_ids, "view": self.views, "position": self.positions}
        return {name: pa.array(values) for name, values in found.items() if values is not None}


@dataclass(frozen=True)
class Numbering:
    """Maps ids of the transfer set to rows of the user's data.

    examples: number in one view of the transfer set. kept: the examples [n] of `data.train`, ascending, that are not
    held out; None where all train. given: examples of `data.train`. positions: the elements of each example with their
    own rows. unlabeled: the examples of `data.unlabeled`, ascending, that it has; None: all. copies: examples that each
    row of the user's data became, copy after copy; there is one view where there are several. given_unlabeled: examples
    of `data.unlabeled`.
    """

    examples: int
    views: int = 1
    kept: Index | None = None
    given: int = 0
    positions: Ragged | None = field(default=None, repr=False)
    unlabeled: Index | None = None
    copies: int = 1
    given_unlabeled: int = 0

    def of(self, ids: Index) -> RowNames:
        """The names of the rows of the transfer set's `ids` [n], one example after another."""
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
        return self._of_copies(ids)[0] if self.copies > 1 else self._given(ids)

    def view_of(self, ids: Index) -> Views | None:
        """`view` [n] int16 of the transfer set's `ids` [n]; None where there is one view, and one copy of each row."""
        if self.copies > 1:
            return self._of_copies(ids)[1].astype(np.int16)
        return None if self.views == 1 else (ids // self.examples).astype(np.int16)

    def _given(self, ids: Index) -> Index:
        """The examples of `data.train`, then of `data.unlabeled`, that the transfer set's `ids` [n] are: [n] int64."""
        rows = ids % self.examples
        if self.kept is None:
            return rows
        trains = rows < len(self.kept)
        more = rows - len(self.kept)
        if self.unlabeled is not None and len(self.unlabeled):  # else all are of train
            more = self.unlabeled[np.where(trains, 0, more)]
        return np.where(trains, self.kept[np.where(trains, rows, 0)], more + self.given)

    def _of_copies(self, ids: Index) -> tuple[Index, Index]:
        """The rows of the user's data that the examples `ids` [n] are copies of, and which copies: [n] int64 each."""
        found = self._given(ids)
        trains = found < self.given
        rows = np.where(trains, self.given, self.given_unlabeled) // self.copies
        within = np.where(trains, found, found - self.given)
        return within % rows + np.where(trains, 0, self.given // self.copies), within // rows

    def digest(self) -> str:
        """sha256 of the numbering; empty where it is the identity."""
        if self.kept is None and self.copies == 1:
            return ""
        kept = b"" if self.kept is None else self.kept.tobytes()
        hashed = hashlib.sha256(f"{self.given} ".encode() + kept)
        if self.unlabeled is not None:
            hashed.update(b" " + self.unlabeled.tobytes())
        if self.copies > 1:
            hashed.update(f" {self.copies} copies, {self.given_unlabeled}".encode())
        return hashed.hexdigest()
