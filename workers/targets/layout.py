"""The order of the examples: a function of sizes and seeds only, never of the order in which teachers answer.

The store of soft targets keeps the transfer set in parts. Each part is a random sample, the same in every run. So a
student can learn from the first part while the teachers still compute the second: parts in order are examples in random
order. Later epochs shuffle the parts and mix several at a time, which needs memory only for those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from workers.data.arrays import Index
from workers.data.positions import Positions
from workers.data.ragged import stretches

LARGEST_PART = 8192
SMALLEST_PART = 64
PIECE_VALUES = 2**22
"""About how many probabilities a teacher returns per piece."""
PART_BYTES = 2**24
"""Approximate size of a part of compressed rows in memory."""
WINDOW = 16
"""Parts that are mixed at a time after the first epoch."""


def piece_rows(classes: int, positions: float = 1.0, most: int = LARGEST_PART) -> int:
    """Examples per piece, a power of two, from the size of teachers' answers: one number per class and position.

    positions: mean number per example. most: fewer where examples take long.
    """
    return _examples(PIECE_VALUES // classes, positions, most)


def part_rows(classes: int, row_bytes: int | None = None, positions: float = 1.0, most: int = LARGEST_PART) -> int:
    """Examples per part, a power of two and a multiple of `piece_rows`, from the size of stored rows.

    row_bytes: bytes of a row in memory where the store keeps only the largest probabilities; None: it keeps all, and
    a part is one piece.
    """
    piece = piece_rows(classes, positions, most)
    return piece if row_bytes is None else max(piece, _examples(PART_BYTES // row_bytes, positions, most))


def _examples(rows: int, positions: float, most: int) -> int:
    rows = max(SMALLEST_PART, min(most, rows))
    return 1 << int(math.log2(max(rows / positions, 1)))


@dataclass(frozen=True)
class PartLayout:
    """How `views` passes over `examples` examples are cut into parts of `rows` rows; each view's last may be shorter.

    Row r of view v has the id v * examples + r. With one view, ids are rows of the transfer set.

    Teachers answer piece by piece. A part consists of consecutive pieces of `piece` rows, by default of one. Pieces are
    numbered through all parts and views. The examples of a piece do not depend on the size of a part, so that logits
    cached per piece serve stores with other parts.
    """

    examples: int
    rows: int
    views: int = 1
    piece: int = 0
    """Rows of a piece; a divisor of `rows`. 0: as many as in a part."""

    def __post_init__(self) -> None:
        if self.piece and self.rows % self.piece:
            raise ValueError(f"parts of {self.rows} rows in pieces of {self.piece}; expected a multiple")

    @property
    def parts_per_view(self) -> int:
        return -(-self.examples // self.rows)

    @property
    def parts(self) -> int:
        return self.views * self.parts_per_view

    def ids(self, part: int) -> Index:
        """The ids in a part, ascending: [rows] int64."""
        return self._cut(part, self.rows, self.parts_per_view)

    def pieces(self, part: int) -> range:
        """The pieces that make a part."""
        view, number = divmod(part, self.parts_per_view)
        each, of_view = self.rows // self._piece, -(-self.examples // self._piece)
        return range(view * of_view + number * each, view * of_view + min((number + 1) * each, of_view))

    def part_of(self, piece: int) -> int:
        """The part that a piece belongs to."""
        view, number = divmod(piece, -(-self.examples // self._piece))
        return view * self.parts_per_view + number * self._piece // self.rows

    def piece_ids(self, piece: int) -> Index:
        """The ids in a piece, ascending: [rows] int64."""
        return self._cut(piece, self._piece, -(-self.examples // self._piece))

    def row_order(self, part: int, rows: Positions) -> Index:
        """For each row of a part, its index in the concatenation of the part's pieces: [rows] int64.

        rows: number of rows of each example.
        """
        of_pieces = np.concatenate([self.piece_ids(piece) for piece in self.pieces(part)])
        order = np.argsort(of_pieces)
        return order if rows.is_one_each else stretches(rows.edges(of_pieces)[order], rows.of(of_pieces[order]))

    @property
    def _piece(self) -> int:
        return self.piece or self.rows

    def _cut(self, number: int, rows: int, per_view: int) -> Index:
        view, number = divmod(number, per_view)
        return np.sort(_permutation(self.examples)[number * rows : (number + 1) * rows]) + view * self.examples

    def windows(self, epoch: int, seed: int) -> Iterator[list[int]]:
        """The parts of an epoch, in groups that are mixed in memory.

        A view's first epoch takes its parts in order and one by one, since teachers may still be computing them.
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
    """Sizes of an epoch's batches. They differ by at most 1, so that no small batch remains at the end."""
    batches = -(-examples // batch_size)
    return [examples // batches + (k < examples % batches) for k in range(batches)]
