"""Cache of parts of the soft targets in memory, with access by row.

All parts share one array, each in its own place. So one index operation draws rows of several parts, without
concatenating the parts first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from workers.data.arrays import Index
from workers.targets.base import Columns
from workers.targets.soft_targets import Rows


@dataclass(frozen=True)
class Place:
    """The place of a part, from row `start` of the cache. ids: [n] its examples; rows: [n] the first row of each."""

    start: int
    ids: Index
    rows: Index


class PartCache:
    """An LRU cache for `places` parts of at most `rows` rows each. first: a part with the columns to allocate."""

    def __init__(self, places: int, rows: int, first: Rows) -> None:
        self.free = [place * rows for place in reversed(range(places))]
        self.targets = first.targets.like(
            [torch.empty((places * rows, *column.shape[1:]), dtype=column.dtype) for column in first.targets.columns]
        )
        self.entropy = np.empty(places * rows, np.float32)
        self.places: OrderedDict[int, Place] = OrderedDict()

    def find(self, number: int) -> Place | None:
        """The place of a part; None where it is not cached. Counts as a use."""
        if number in self.places:
            self.places.move_to_end(number)
        return self.places.get(number)

    def missing(self, numbers: Iterable[int]) -> Iterator[int]:
        """Predict the cache misses of a sequence of accesses, where each miss puts the part into the cache."""
        room = len(self.free) + len(self.places)
        held = OrderedDict.fromkeys(self.places)
        for number in numbers:
            if number in held:
                held.move_to_end(number)
                continue
            if len(held) == room:
                held.popitem(last=False)
            held[number] = None
            yield number

    def put(self, number: int, part: Rows, ids: Index, first: Index) -> Place:
        """Copy a part into the cache, evicting the least recently used part if it is full."""
        start = self.free.pop() if self.free else self.places.popitem(last=False)[1].start
        place = self.places[number] = Place(start, ids, start + first)
        rows = slice(start, start + len(part.ids))
        for column, values in zip(self.targets.columns, part.targets.columns, strict=True):
            column.numpy()[rows] = values.numpy()
        self.entropy[rows] = part.entropy
        return place

    def draw(self, rows: Index) -> Columns:
        """A copy of the soft targets in some of the cache's rows."""
        index = torch.from_numpy(rows)
        return self.targets.like([column.index_select(0, index) for column in self.targets.columns])
