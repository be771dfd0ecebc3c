"""Rows of different lengths, such as the tokens of texts or the frames of recordings.

The values of all rows lie in a few arrays, and a row is a slice of one of them. So indexing and concatenating rows copy
their starts and lengths, not their values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """N rows. arrays: of values, [V, ...] each, of one type. starts, lengths: [N] int64, the place of each row in the
    concatenation of the arrays; a row lies in one of them."""

    arrays: tuple[NDArray[Any], ...]
    starts: Index
    lengths: Index

    @classmethod
    def of(cls, rows: Iterable[Any]) -> Ragged:
        """Rows [length, ...] of one type, each a sequence of its own.

        Raises: ValueError where they differ in more than their length.
        """
        arrays = [np.asarray(row) for row in rows]
        filled = [row for row in arrays if row.size] or arrays[:1]
        values = np.concatenate(filled) if filled else np.zeros(0, np.float32)
        return cls.packed(values, np.array([len(row) for row in arrays], np.int64))

    @classmethod
    def packed(cls, values: NDArray[Any], lengths: Index) -> Ragged:
        """Rows of these lengths from their concatenated values."""
        return cls((values,), np.cumsum(lengths, dtype=np.int64) - lengths, lengths)

    @classmethod
    def counting(cls, lengths: Index) -> Ragged:
        """The rows 0, 1, ... length - 1, which share one array."""
        return cls((np.arange(lengths.max(initial=0)),), np.zeros(len(lengths), np.int64), lengths)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.arrays[0].dtype

    @property
    def of_value(self) -> tuple[int, ...]:
        """The shape of one value of a row."""
        return self.arrays[0].shape[1:]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice | Index) -> Ragged:
        return Ragged(self.arrays, self.starts[rows], self.lengths[rows])

    def lengths_only(self) -> Ragged:
        """Rows of the same lengths without their values; an access to these raises a LookupError."""
        return Dropped((np.zeros(0, self.dtype),), self.starts, self.lengths)

    @cached_property
    def flat(self) -> NDArray[Any]:
        """The values of all rows, one row after another: [sum of lengths, ...]. It may be a view."""
        if len(self.arrays) > 1:
            of_one = self._of_one_array()
            return self._from_several() if of_one is None else of_one.flat
        (values,) = self.arrays
        if len(self) and np.array_equal(self.starts, self.starts[0] + np.cumsum(self.lengths) - self.lengths):
            return values[self.starts[0] : self.starts[0] + int(self.lengths.sum())]
        found: NDArray[Any] = values[stretches(self.starts, self.lengths)]
        return found

    def _of_one_array(self) -> Ragged | None:
        """The same rows of the one array that has them all; None where there is none. An index into several is slow."""
        ends = np.cumsum([len(values) for values in self.arrays])
        number = int(np.searchsorted(ends, self.starts[0], side="right")) if len(self) else len(ends)
        if number == len(ends):
            return None
        values = self.arrays[number]
        starts = self.starts - (ends[number] - len(values))
        is_inside = starts.min() >= 0 and (starts + self.lengths).max() <= len(values)
        return Ragged((values,), starts, self.lengths) if is_inside else None

    def _from_several(self) -> NDArray[Any]:
        """One array after another, by rows: those of texts have many values each."""
        places, filled = np.cumsum(self.lengths) - self.lengths, np.flatnonzero(self.lengths)
        found = np.empty((int(self.lengths.sum()), *self.of_value), self.dtype)
        ends = np.cumsum([len(values) for values in self.arrays])
        of_array = np.searchsorted(ends, self.starts[filled], side="right")
        for number in np.unique(of_array):
            values, rows = self.arrays[number], filled[of_array == number]
            starts, lengths = self.starts[rows] - (ends[number] - len(values)), self.lengths[rows]
            found[stretches(places[rows], lengths)] = values[stretches(starts, lengths)]
        return found

    def blocks(self, size: int) -> Iterator[tuple[int, Ragged]]:
        """All rows in order, about `size` bytes at a time, each block with its first row."""
        each = max(1, int(np.prod(self.of_value))) * self.dtype.itemsize
        ends = np.cumsum(self.lengths) * each
        start = 0
        while start < len(self):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + size, side="right")))
            yield start, self[start:stop]
            start = stop

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arrays if the rows use most of them, since other rows may share them; else the rows' values."""
        if 2 * int(self.lengths.sum()) >= sum(map(len, self.arrays)):
            return Ragged, (self.arrays, self.starts, self.lengths)
        return Ragged.packed, (self.flat, self.lengths)


@dataclass(frozen=True)
class Dropped(Ragged):
    """Rows whose values no process needs any more."""

    def __getitem__(self, rows: slice | Index) -> Dropped:
        return Dropped(self.arrays, self.starts[rows], self.lengths[rows])

    @property
    def flat(self) -> NDArray[Any]:
        raise LookupError("the values of these rows were dropped, since every model takes columns derived from them")

    def __reduce__(self) -> tuple[Any, ...]:
        return Dropped, (self.arrays, self.starts, self.lengths)


def joined(parts: Iterable[Ragged]) -> Ragged:
    """Concatenate rows of one type, without a copy of their values."""
    several = list(parts)
    kind = type(several[0])
    sizes = [sum(map(len, part.arrays)) for part in several]
    firsts = np.cumsum([0, *sizes[:-1]])
    return kind(
        tuple(values for part in several for values in part.arrays),
        np.concatenate([part.starts + first for part, first in zip(several, firsts, strict=True)]),
        np.concatenate([part.lengths for part in several]),
    )


def contiguous(parts: Iterable[Ragged]) -> Ragged:
    """Concatenate rows of one type, with their values in one array."""
    several = list(parts)
    return Ragged.packed(np.concatenate([p.flat for p in several]), np.concatenate([p.lengths for p in several]))


def edges_of(counts: Index | NDArray[np.bool_]) -> Index:
    """Offsets of rows of so many elements, one after another, and the end of the last: [n + 1] int64, from 0."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def per_row(which: NDArray[np.bool_], edges: Index) -> Index:
    """How many of these elements each row has: [n] int64. which: [V], of each element. edges: of the rows [n + 1]."""
    found: Index = np.diff(edges_of(which)[edges])
    return found


def stretches(starts: Index, lengths: Index) -> Index:
    """start, start + 1, ... of each stretch, one after another: [sum of lengths]."""
    total = int(lengths.sum())
    found: Index = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(total)
    return found
