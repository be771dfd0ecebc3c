"""One pass over a split's inputs, which finds all that has to be known of their values.

A large set is read from its disk once: for its digest, its range, whether it is finite, and a hash of each row. By
the hashes, rows that two splits share are found without keeping the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import hashing
from workers.data.arrays import Index, Inputs, begin_digest, chunks
from workers.errors import RequestError
from workers.hashing import Hashes

HASHED_ROWS = 2**23
"""Rows of a data set whose hashes are kept, 8 bytes each and 8 for the row; of a larger one, a sample."""
BLOCK_BYTES = 2**20
"""Of rows that are gone through at a time: they stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the inputs [N, ...] of a split are.

    digest: `inputs.digest`. low, high: the least and the largest value. rms: the root of the mean of squares. whole:
    whether all are whole numbers. rows [n] int64 and hashes [n]: of one row in `every`, chosen by its hash, so that
    equal rows are chosen in all splits alike.
    """

    digest: str
    low: float
    high: float
    rms: float
    whole: bool
    rows: Index
    hashes: Hashes


def sampled_every(examples: int) -> int:
    """Of so many rows one in this number is compared with others."""
    return max(1, math.ceil(examples / HASHED_ROWS))


def scan(name: str, inputs: Inputs, every: int = 1) -> Found:
    """What the inputs of the split `data.<name>` are.

    Raises: `RequestError` naming the first example that is not finite as models take it.
    """
    return _scan(name, inputs, [_Part(inputs, len(inputs), every)], None)[0]


def scan_apart(name: str, inputs: Inputs, held: Index, every: int = 1) -> tuple[Found, Found]:
    """`scan` of the rows that are not held out, and of those that are (`held` [n])."""
    parts = [_Part(inputs, examples, every) for examples in (len(inputs) - len(held), len(held))]
    is_held = np.zeros(len(inputs), bool)
    is_held[held] = True
    kept, drawn = _scan(name, inputs, parts, is_held)
    return kept, drawn


def _scan(name: str, inputs: Inputs, parts: list[_Part], is_held: NDArray[np.bool_] | None) -> list[Found]:
    for rows, values in chunks(inputs):
        shares = [values] if is_held is None else [values[~is_held[rows]], values[is_held[rows]]]
        for part, share in zip(parts, shares, strict=True):
            part.add(share)
        if not all(part.is_finite for part in parts):
            raise _not_finite(name, rows.start, values)
    return [part.found() for part in parts]


def _not_finite(name: str, start: int, values: NDArray[Any]) -> RequestError:
    bad = ~np.isfinite(_as_models_take(values).reshape(len(values), -1)).all(axis=1)
    return RequestError(
        f"data.{name}: x of example {start + int(np.flatnonzero(bad)[0])} holds NaN or infinity as float32, which "
        "models compute in; expected finite features. Clean the data or leave such examples out."
    )


def _as_models_take(values: NDArray[Any]) -> NDArray[Any]:
    """Floats as float32, other numbers in this machine's byte order; no copy where they are so."""
    kind = np.dtype(np.float32) if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        return values.astype(kind, copy=False)


@dataclass
class _Part:
    """What is known by now of some rows of `inputs`. examples: how many there will be."""

    inputs: Inputs
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
        self.sha256 = begin_digest((self.examples, *self.inputs.shape[1:]), self.inputs.dtype)

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
        rows = np.arange(self.seen, self.seen + len(block))
        chosen = slice(None) if self.every == 1 else hashes % np.uint64(self.every) == 0
        self.rows.append(rows[chosen])
        self.hashes.append(hashes[chosen])
        self.seen += len(block)

    def found(self) -> Found:
        count = self.seen * math.prod(self.inputs.shape[1:])
        return Found(
            digest=self.sha256.hexdigest(),
            low=self.low,
            high=self.high,
            rms=math.sqrt(self.squares / max(count, 1)),
            whole=self.whole,
            rows=np.concatenate([np.zeros(0, np.int64), *self.rows]),
            hashes=np.concatenate([np.zeros(0, np.uint64), *self.hashes]),
        )


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, BLOCK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield values[start : start + step]
