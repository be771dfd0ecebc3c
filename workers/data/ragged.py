"""Rows of different lengths with all values in one array, such as the tokens of texts or the frames of recordings.

A row is a slice of `values`, so that indexing copies only starts and lengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """N rows. values: [V, ...] of all rows; starts, lengths: [N] int64, the place of each row in `values`."""

    values: NDArray[Any]
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
        return cls(values, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def of_value(self) -> tuple[int, ...]:
        """The shape of one value of a row."""
        return self.values.shape[1:]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice | Index) -> Ragged:
        return Ragged(self.values, self.starts[rows], self.lengths[rows])

    @cached_property
    def flat(self) -> NDArray[Any]:
        """The values of all rows, one row after another: [sum of lengths, ...]."""
        if len(self) and np.array_equal(self.starts, self.starts[0] + np.cumsum(self.lengths) - self.lengths):
            return self.values[self.starts[0] : self.starts[0] + int(self.lengths.sum())]
        found: NDArray[Any] = self.values[stretches(self.starts, self.lengths)]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the values of its own rows."""
        return Ragged.packed, (self.flat, self.lengths)


def joined(parts: Iterable[Ragged]) -> Ragged:
    """Concatenate rows of one type."""
    several = list(parts)
    return Ragged.packed(
        np.concatenate([part.flat for part in several]), np.concatenate([part.lengths for part in several])
    )


def stretches(starts: Index, lengths: Index) -> Index:
    """start, start + 1, ... of each stretch, one after another: [sum of lengths]."""
    total = int(lengths.sum())
    found: Index = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(total)
    return found
