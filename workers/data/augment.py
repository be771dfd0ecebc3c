"""Augmentation that a cache can know: what is drawn for an example follows from (example, view, seed) alone.

A teacher's soft target belongs to the very input that the teacher saw. So each example has `views` versions, drawn once
and for all; the teachers label every version, and epoch e of the student sees version e modulo `views`. Made
again, on any machine and in any batch, a version is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Index, Inputs
from workers.errors import RequestError
from workers.hashing import GOLDEN, mixed
from workers.specs import AugmentSpec
from workers.user_code import calls, factories

Rows = NDArray[Any]


@dataclass
class Draws:
    """Random numbers for some rows: each row's own, whatever rows are beside it. Every call draws new ones.

    keys: [B] uint64, one for each row.
    """

    keys: NDArray[np.uint64]
    _drawn: int = 0

    def uniform(self, low: float = 0.0, high: float = 1.0, size: int = 1) -> NDArray[np.float32]:
        """[B, size] float32, evenly from low up to high."""
        counters = np.arange(self._drawn, self._drawn + size, dtype=np.uint64) + np.uint64(1)
        self._drawn += size
        bits = mixed(self.keys[:, None] + counters * GOLDEN) >> np.uint64(40)
        drawn: NDArray[np.float32] = (low + (high - low) * (bits * 2.0**-24)).astype(np.float32)
        return drawn

    def integers(self, low: int, high: int, size: int = 1) -> NDArray[np.int64]:
        """[B, size] int64, evenly from low up to and without high."""
        return low + np.minimum(self.uniform(0, high - low, size).astype(np.int64), high - low - 1)

    def normal(self, size: int = 1) -> NDArray[np.float32]:
        """[B, size] float32 of the standard normal distribution (Box and Muller 1958)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(size=size)))
        drawn: NDArray[np.float32] = (radius * np.cos(2.0 * np.pi * self.uniform(size=size))).astype(np.float32)
        return drawn


Transform = Callable[..., Rows]
"""`transform(x [B, ...], draws, **kwargs) -> [B, ...]`, each row from its own row and its own draws alone."""


@dataclass(frozen=True)
class Augmented:
    """`views` versions of the same inputs: row v * N + i is version v of example i."""

    of: Inputs
    transform: Transform
    kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    views: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.of.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.of.dtype

    def __len__(self) -> int:
        return self.views * len(self.of)

    def __getitem__(self, rows: Any, /) -> Rows:
        ids: Index = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        draws = Draws(mixed(ids.astype(np.uint64) + mixed(np.array(self.seed, np.uint64) + GOLDEN)))
        return self.transform(self.of[ids % len(self.of)], draws, **self.kwargs)


def augmented(spec: AugmentSpec | None, of: Inputs, seed: int, views: int) -> Inputs:
    """The inputs in `views` versions as `spec` says; as they are without one.

    Raises: `RequestError` where the transform is missing, raises, or does not treat each row for itself.
    """
    if spec is None:
        return of
    found = Augmented(of, factories.load(spec.factory, spec.folder), spec.kwargs, seed, views)
    _check(spec, found)
    return found


def _check(spec: AugmentSpec, inputs: Augmented) -> None:
    rows = np.arange(min(3, len(inputs.of)))
    shape, arguments = [len(rows), *inputs.of.shape[1:]], spec.kwargs or "no further arguments"
    called = f". It was called with x of shape {shape}, draws, and {arguments}."
    with calls.checked(f"data.augment '{spec.factory}' raised", called):
        together = inputs[rows]
        alone = [inputs[rows[k : k + 1]] for k in range(len(rows))]
    if getattr(together, "shape", None) != (len(rows), *inputs.of.shape[1:]):
        raise RequestError(
            f"data.augment '{spec.factory}' returned {getattr(together, 'shape', type(together).__name__)}; expected "
            f"an array of the shape that it was given, {(len(rows), *inputs.of.shape[1:])}."
        )
    if not np.array_equal(together, np.concatenate(alone)):
        raise RequestError(
            f"data.augment '{spec.factory}' makes something else of an example when others are beside it. Expected "
            "each row to follow from itself and from `draws` alone: teachers and student cut their batches differently."
        )
