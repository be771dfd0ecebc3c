"""Dense columns of examples: numpy arrays, or lazy objects with the same interface.

A column needs `shape`, `dtype`, a length and `x[rows] -> np.ndarray`. The classes here take rows from other columns on
access, without a copy of them all.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.data.column import Column
from workers.data.memmap import Watched

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]

warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # Ray's arrays are not; `gather` only reads

NARROW = {np.dtype(kind): getattr(torch, kind) for kind in ("uint8", "int8", "int16", "int32", "float16")}
"""Numpy types that are narrower than the models' input types, and the corresponding torch types."""

ROWS_AT_ONCE, BYTES_AT_ONCE = 8192, 2**26
"""Most rows, and about the most bytes, that a pass over all rows holds at a time."""


@dataclass(frozen=True)
class Rows:
    """Some rows of another column, in the order of `rows` [N] int64."""

    of: Column
    rows: Index

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.of.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.of.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        return self.of[self.rows[rows]]


@dataclass(frozen=True)
class Joined:
    """Columns of one shape, concatenated."""

    parts: tuple[Column, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(part.dtype for part in self.parts))

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        index = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"rows from {index.min()} to {index.max()}, and there are {len(self)}")
        found = np.empty((len(index), *self.shape[1:]), self.dtype)
        start = 0
        for part in self.parts:
            here = (index >= start) & (index < start + len(part))
            if here.any():
                found[here] = part[index[here] - start]
            start += len(part)
        return found


def chunks(inputs: Column, size: int | None = None) -> Iterator[tuple[slice, NDArray[Any]]]:
    """All rows in order, at most `size` at a time, each with its slice."""
    if size is None:
        row_bytes = math.prod(inputs.shape[1:]) * inputs.dtype.itemsize
        size = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(row_bytes, 1)))
    for start in range(0, len(inputs), size):
        rows = slice(start, min(start + size, len(inputs)))
        yield rows, inputs[rows]


MICRO_BATCH, MICRO_BATCH_VALUES = 1024, 2**24
"""Default number of examples per forward pass, and the most numbers in them."""
CACHED_VALUES = 2**21
"""The most numbers in a forward pass of texts on a CPU: with more, activations leave its caches, and a BERT of 4 x 256
takes 1.6 times as long."""


def micro_batch(values: int, embedded: int = 1, device: str = "") -> int:
    """Examples per forward pass, a power of two.

    values: numbers per example. embedded: numbers that a model makes of each, more than 1 for tokens and texts. device:
    type of the device that computes the pass; left out: any.
    """
    most = CACHED_VALUES if device == "cpu" and embedded > 1 else MICRO_BATCH_VALUES
    return min(MICRO_BATCH, 1 << int(math.log2(max(most // max(values * embedded, 1), 1))))


class Room:
    """Reusable memory for batches, since an allocation costs more than the copy into it."""

    def __init__(self) -> None:
        self.held = torch.empty(0)

    def take(self, shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor; it overwrites the one from the previous call."""
        needed = math.prod(shape)
        if self.held.dtype != kind or len(self.held) < needed:
            self.held = torch.empty(needed, dtype=kind)
        return self.held[:needed].view(shape)


def kind_of(dtype: np.dtype[Any]) -> torch.dtype:
    """The type in which a model gets values: float32 of floats and bytes, int64 of ids."""
    return torch.float32 if dtype.kind == "f" or dtype == np.uint8 else torch.int64


def as_tensor(rows: NDArray[Any], room: Room | None = None, *, narrow: bool = False) -> torch.Tensor:
    """A batch for a model: float32 where `rows` are floats or bytes, int64 where they are ids.

    narrow: keep a narrower dtype, for `widened` on the target device.

    The result is always a copy, in torch's own memory or in `room`. Arrays from Ray are read-only, and matrix products
    on differently aligned memory can differ in the last bit.
    """
    kind = kind_of(rows.dtype)
    if narrow:
        kind = NARROW.get(rows.dtype, kind)
    tensor = (room or Room()).take(rows.shape, kind)
    np.copyto(tensor.numpy(), rows, casting="unsafe")
    return tensor


def widened(batch: torch.Tensor) -> torch.Tensor:
    """Convert a batch from `as_tensor` to float32 or int64, on its device."""
    return batch.float() if batch.is_floating_point() or batch.dtype == torch.uint8 else batch.long()


def gather(inputs: Column, rows: Index, room: Room | None = None, *, narrow: bool = False) -> torch.Tensor:
    """`as_tensor(inputs[rows], room)`, with one copy instead of two for float32 arrays in memory.

    Raises: IndexError for rows that do not exist.
    """
    if isinstance(inputs, Watched):
        return inputs.read(lambda of: gather(of, rows, room, narrow=narrow))
    if isinstance(inputs, Rows):
        return gather(inputs.of, inputs.rows[rows], room, narrow=narrow)
    if not isinstance(inputs, np.ndarray) or inputs.dtype != np.float32 or not _strides_fit(inputs):
        return as_tensor(inputs[rows], room, narrow=narrow)
    found = (room or Room()).take((len(rows), *inputs.shape[1:]), torch.float32)
    return torch.index_select(torch.from_numpy(inputs), 0, torch.from_numpy(rows), out=found)


def _strides_fit(array: NDArray[Any]) -> bool:
    """Whether torch takes the array as it is: one with flipped axes, or a field of packed records, it does not."""
    return all(step >= 0 and step % array.itemsize == 0 for step in array.strides)


def digest(inputs: Column) -> str:
    """sha256 over shape, dtype and every value; independent of the source of the data."""
    found = begin_digest(tuple(inputs.shape), inputs.dtype)
    for _, rows in chunks(inputs):
        found.update(np.ascontiguousarray(rows).data)
    return found.hexdigest()


def begin_digest(shape: tuple[int, ...], dtype: np.dtype[Any]) -> hashlib._Hash:
    """`digest` before the first value."""
    return hashlib.sha256(f"{shape} {dtype}".encode())


def spread(examples: int, rows: int) -> Index:
    """[rows] int64: indices spread evenly over `examples` rows; all of them if there are fewer than `rows`."""
    return np.linspace(0, examples - 1, min(rows, examples)).round().astype(np.int64)
