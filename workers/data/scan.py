"""One pass over a split's inputs that computes all statistics of their values.

A single read of a large set yields its digest, its range, a check for finite values, and a hash of each row. The
hashes reveal rows that two splits share, without keeping the rows. Each column is scanned separately.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers import hashing
from workers.data.arrays import Index, begin_digest, chunks
from workers.data.column import Column
from workers.data.examples import AnyColumn, Columns, Examples, X, digest_column, digest_of
from workers.data.ragged import Ragged
from workers.errors import RequestError
from workers.hashing import Hashes

Mask = NDArray[np.bool_]

HASHED_ROWS = 2**23
"""Most rows of a data set whose hashes are kept, at 16 bytes per row; a larger set is sampled."""
RAGGED_BYTES = 2**22
"""Of values of ragged rows that are scanned at a time, which take about ten times as much meanwhile."""
BLOCK_BYTES = 2**20
"""Bytes of a block of rows, which fits a core's cache."""


@dataclass(frozen=True)
class Range:
    """Statistics of a column's values.

    low, high: minimum and maximum. rms: root mean square. whole: whether all are whole numbers.
    """

    low: float
    high: float
    rms: float
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of scanning a split's inputs.

    digest: `examples.digest`. ranges: per column. rows [n] int64 and hashes [n]: a sample of one example in `every`,
    chosen by the hash, so that equal examples are chosen in all splits.
    """

    digest: str
    ranges: Mapping[str, Range]
    rows: Index
    hashes: Hashes


def sampled_every(examples: int) -> int:
    """The sampling rate for `examples` rows: one in this number is compared."""
    return max(1, math.ceil(examples / HASHED_ROWS))


def scan(name: str, x: Examples, every: int = 1) -> Found:
    """Scan the inputs of the split `data.<name>`.

    Raises: `RequestError` with the first example that is not finite in the models' dtype.
    """
    return _scan(name, x, [np.zeros(len(x), bool)], every)[0]


def scan_apart(name: str, x: Examples, held: Sequence[Index], every: int = 1) -> list[Found]:
    """`scan` separately for the rows that are not held out, and for each of those sets that are (`held`, [n] each)."""
    of_each = []
    for rows in held:
        without = np.ones(len(x), bool)
        without[rows] = False
        of_each.append(without)
    return _scan(name, x, [~np.logical_and.reduce(of_each), *of_each], every)


def _scan(name: str, x: Examples, without: Sequence[Mask], every: int) -> list[Found]:
    """Scan the split once for each mask [N] of `without`, which excludes rows."""
    if not isinstance(x, Columns):
        of_each = _of_column(name, X, x, without, every)
        return [Found(digest=f.digest, ranges={X: f.range}, rows=f.rows, hashes=f.hashes) for f in of_each]
    columns = {column: _of_column(name, column, values, without, 1) for column, values in x.columns.items()}
    return [
        _together(x, np.flatnonzero(~left_out), {column: each[number] for column, each in columns.items()}, every)
        for number, left_out in enumerate(without)
    ]


class _Scanned(NamedTuple):
    """The scan of a column. rows, hashes: of the sampled rows."""

    digest: str
    range: Range
    rows: Index
    hashes: Hashes


def _together(x: Columns, rows: Index, columns: Mapping[str, _Scanned], every: int) -> Found:
    """Combine the scans of several columns, in which every row is hashed."""
    hashes = np.zeros(len(rows), np.uint64)
    for name in sorted(columns):
        hashes = hashing.mixed(hashes) + columns[name].hashes
    chosen = _chosen(hashes, every)
    return Found(
        digest=digest_of(
            {name: column.digest for name, column in columns.items()},
            None if x.positions is None else x.positions[rows],
        ),
        ranges={name: column.range for name, column in columns.items()},
        rows=np.arange(len(rows))[chosen],
        hashes=hashes[chosen],
    )


def _chosen(hashes: Hashes, every: int) -> slice | Mask:
    return slice(None) if every == 1 else hashes % np.uint64(every) == 0


def _of_column(name: str, column: str, values: AnyColumn, without: Sequence[Mask], every: int) -> list[_Scanned]:
    if isinstance(values, Ragged):
        return [_of_ragged(name, column, values, np.flatnonzero(~left_out)) for left_out in without]
    parts = [_Part(values, int((~left_out).sum()), every) for left_out in without]
    for rows, block in chunks(values):
        for part, left_out in zip(parts, without, strict=True):
            part.add(block if len(parts) == 1 else block[~left_out[rows]])
        if not all(part.is_finite for part in parts):
            raise _not_finite(name, column, rows.start, block)
    return [part.found() for part in parts]


def _of_ragged(name: str, column: str, values: Ragged, rows: Index) -> _Scanned:
    taken, hashes = values[rows], []
    low, high, squares, whole, count = math.inf, -math.inf, 0.0, True, 0
    for start, block in taken.blocks(RAGGED_BYTES):
        flat = _as_models_take(block.flat)
        if not np.isfinite(flat).all():
            bad = np.flatnonzero(~np.isfinite(flat).reshape(len(flat), -1).all(axis=1))[0]
            row = start + int(np.searchsorted(np.cumsum(block.lengths), bad, side="right"))
            raise _is_not_finite(name, column, int(rows[row]))
        if flat.size:
            low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        squares += float(np.square(flat, dtype=np.float64).sum())
        whole = whole and (flat.dtype.kind != "f" or bool((flat == np.floor(flat)).all()))
        count += flat.size
        hashes.append(hashing.of_stretches(flat, block.lengths))
    found = Range(low, high, math.sqrt(squares / max(count, 1)), whole)
    every = np.concatenate([np.zeros(0, np.uint64), *hashes])
    return _Scanned(digest_column(taken), found, np.arange(len(rows)), every)


def _not_finite(name: str, column: str, start: int, values: NDArray[Any]) -> RequestError:
    bad = ~np.isfinite(_as_models_take(values).reshape(len(values), -1)).all(axis=1)
    return _is_not_finite(name, column, start + int(np.flatnonzero(bad)[0]))


def _is_not_finite(name: str, column: str, row: int) -> RequestError:
    return RequestError(
        f"data.{name}: {column} of example {row} holds NaN or infinity as float32, which "
        "models compute in; expected finite features. Clean the data or leave such examples out."
    )


def _as_models_take(values: NDArray[Any]) -> NDArray[Any]:
    """Floats as float32, other numbers in native byte order; copies only if necessary."""
    kind = np.dtype(np.float32) if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        return values.astype(kind, copy=False)


@dataclass
class _Part:
    """Accumulates the scan of some rows of a dense column. examples: their number."""

    column: Column
    examples: int
    every: int
    seen: int = 0
    low: float = math.inf
    high: float = -math.inf
    squares: float = 0.0
    whole: bool = True
    rows: list[Index] = field(default_factory=list)
    hashes: list[Hashes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sha256 = begin_digest((self.examples, *self.column.shape[1:]), self.column.dtype)

    @property
    def is_finite(self) -> bool:
        return self.seen == 0 or (math.isfinite(self.low) and math.isfinite(self.high))

    def add(self, values: NDArray[Any]) -> None:
        self.sha256.update(np.ascontiguousarray(values).data)
        for block in _blocks(values):
            self._add_block(_as_models_take(block))

    def _add_block(self, block: NDArray[Any]) -> None:
        self.low = float(np.minimum(self.low, block.min()))  # both are NaN where one value is
        self.high = float(np.maximum(self.high, block.max()))
        values = block.reshape(-1).astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            self.squares += float(np.dot(values, values))
        self.whole = self.whole and (block.dtype.kind != "f" or bool((block == np.floor(block)).all()))
        hashes = hashing.of_rows(block)
        chosen = _chosen(hashes, self.every)
        self.rows.append(np.arange(self.seen, self.seen + len(block))[chosen])
        self.hashes.append(hashes[chosen])
        self.seen += len(block)

    def found(self) -> _Scanned:
        count = self.seen * math.prod(self.column.shape[1:])
        rms = math.sqrt(self.squares / max(count, 1))
        return _Scanned(
            self.sha256.hexdigest(),
            Range(self.low, self.high, rms, self.whole),
            np.concatenate([np.zeros(0, np.int64), *self.rows]),
            np.concatenate([np.zeros(0, np.uint64), *self.hashes]),
        )


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield values[start : start + step]
