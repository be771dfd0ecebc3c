"""Parts of a store of soft targets in memory, as many as there is room for, to be drawn from row by row.

All lie in one array, each part in a place of its own: so rows of several parts are drawn in one go, and none is copied
together first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.data.arrays import Index
from workers.targets.soft_targets import Rows, SoftTargets
from workers.targets.top_k import TopK


@dataclass(frozen=True)
class Place:
    """Where a part lies: its examples' ids [n], and the row of the cache that the first of them has."""

    ids: Index
    start: int

    @property
    def rows(self) -> Index:
        """The cache's rows [n] of the part."""
        return np.arange(self.start, self.start + len(self.ids))


class PartCache:
    """Room for `places` parts of at most `rows` rows, like `first`; whatever was unused longest makes room."""

    def __init__(self, places: int, rows: int, first: Rows) -> None:
        self.free = [place * rows for place in reversed(range(places))]
        self.columns = [
            torch.from_numpy(np.empty((places * rows, *values.shape[1:]), values.dtype))
            for values in _columns(first.targets)
        ]
        self.entropy = np.empty(places * rows, np.float32)
        self.compressed = isinstance(first.targets, TopK)
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
        place = self.places[number] = Place(part.ids, start)
        rows = slice(start, start + len(part.ids))
        for column, values in zip(self.columns, _columns(part.targets), strict=True):
            column.numpy()[rows] = values
        self.entropy[rows] = part.entropy
        return place

    def draw(self, rows: Index) -> Tensor | TopK:
        """The soft targets of some of the cache's rows, in memory of their own."""
        index = torch.from_numpy(rows)
        drawn = [column.index_select(0, index) for column in self.columns]
        return TopK(*drawn) if self.compressed else drawn[0]


def _columns(targets: SoftTargets) -> list[NDArray[Any]]:
    """The arrays that soft targets are made of, with as many rows each."""
    if isinstance(targets, TopK):
        return [column.numpy() for column in (targets.ids, targets.probabilities, targets.tail)]
    return [targets]
