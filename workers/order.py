"""In which order examples are gone through: decided by numbers alone, never by who was ready first.

The store of soft targets keeps the transfer set in parts, each a random sample of it that is the same in every run, so
that a student can learn from the first part while the teachers still work on the second: going through the parts in
order is going through the examples at random. Later epochs draw the parts in an order of their own and mix several at
a time, which needs the memory of those alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from workers.inputs import Index

LARGEST_PART = 8192
SMALLEST_PART = 64
PART_VALUES = 2**22
"""About how many probabilities a part holds, so that one with many classes has fewer rows."""
WINDOW = 16
"""Parts that are mixed at a time after the first epoch."""


def part_rows(classes: int) -> int:
    """Rows of a part: a power of two."""
    return max(SMALLEST_PART, min(LARGEST_PART, 1 << int(math.log2(max(PART_VALUES // classes, 1)))))


@dataclass(frozen=True)
class Layout:
    """How `views` passes over `examples` examples are cut into parts of `rows` rows, the last of each view shorter.

    Row r of view v has the id v * examples + r. With one view, ids are rows of the transfer set.
    """

    examples: int
    rows: int
    views: int = 1

    @property
    def parts_per_view(self) -> int:
        return -(-self.examples // self.rows)

    @property
    def parts(self) -> int:
        return self.views * self.parts_per_view

    def ids(self, part: int) -> Index:
        """The ids in a part, ascending: [rows] int64."""
        view, number = divmod(part, self.parts_per_view)
        here = _permutation(self.examples)[number * self.rows : (number + 1) * self.rows]
        return np.sort(here) + view * self.examples

    def windows(self, epoch: int, seed: int) -> Iterator[list[int]]:
        """The parts that an epoch goes through, those that are mixed together at a time.

        A view's first epoch takes its parts in order and one by one, since they may only just be coming.
        """
        view, first = epoch % self.views, epoch < self.views
        parts = np.arange(self.parts_per_view) + view * self.parts_per_view
        if first:
            yield from ([int(part)] for part in parts)
            return
        drawn = np.random.default_rng([seed, epoch]).permutation(parts)
        for start in range(0, len(drawn), WINDOW):
            yield [int(part) for part in drawn[start : start + WINDOW]]


@lru_cache(maxsize=1)
def _permutation(examples: int) -> Index:
    return np.random.default_rng([examples, 0x51117]).permutation(examples)


def batch_sizes(examples: int, batch_size: int) -> list[int]:
    """An epoch's batches, of nearly one size: no small one is left at the end."""
    batches = -(-examples // batch_size)
    return [examples // batches + (k < examples % batches) for k in range(batches)]
