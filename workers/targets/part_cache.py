"""Parts of a store of soft targets in memory, as many as there is room for, to be drawn from row by row.

All lie in one array, each part in a place of its own: so rows of several parts are drawn in one go, and none is copied
together first.
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
    """Where a part lies: `rows` of the cache from row `start` on."""

    start: int
    rows: int


class PartCache:
    """Room for `places` parts of at most `rows` rows, like `first`; whatever was unused longest makes room."""

    def __init__(self, places: int, rows: int, first: Rows) -> None:
        self.free = [place * rows for place in reversed(range(places))]
        self.targets = first.targets.like(
            [torch.empty((places * rows, *column.shape[1:]), dtype=column.dtype) for column in first.targets.columns]
        )
        self.entropy = np.empty(places * rows, np.float32)
        self.places: OrderedDict[int, Place] = OrderedDict()

    def find(self, number: int) -> Place | None:
        """Where a part is, if it is here."""
        if number in self.places:
            self.places.move_to_end(number)
        return self.places.get(number)

    def missing(self, numbers: Iterable[int]) -> Iterator[int]:
        """Those of the parts that will not be here when it is their turn, where each is found or else put in order."""
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

    def put(self, number: int, part: Rows) -> Place:
        """Copy a part to a place of its own, in which others may have been before."""
        start = self.free.pop() if self.free else self.places.popitem(last=False)[1].start
        place = self.places[number] = Place(start, len(part.ids))
        rows = slice(start, start + len(part.ids))
        for column, values in zip(self.targets.columns, part.targets.columns, strict=True):
            column.numpy()[rows] = values.numpy()
        self.entropy[rows] = part.entropy
        return place

    def draw(self, rows: Index) -> Columns:
        """The soft targets of some of the cache's rows, in memory of their own."""
        index = torch.from_numpy(rows)
        return self.targets.like([column.index_select(0, index) for column in self.targets.columns])
