"""How examples are called in the user's own files.

A run numbers its transfer set from 0: the training examples that remain once validation is drawn, then the unlabelled
ones, each in as many views as there are. What it writes for others is numbered as the data were given: rows 0 to N - 1
of `data.train`, then row j of `data.unlabeled` as N + j, and the view beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Index

Views = NDArray[np.int16]


@dataclass(frozen=True)
class Numbering:
    """From ids of the transfer set to rows as they were given.

    examples: of the transfer set, one view of it. kept: the rows [n] of `data.train`, ascending, that train; None where
    all do. given: rows of `data.train`.
    """

    examples: int
    views: int = 1
    kept: Index | None = None
    given: int = 0

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
