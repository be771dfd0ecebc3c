"""64-bit hashes, not cryptographic: of counters, for random numbers, and of rows, to find duplicates."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def mixed(bits: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): maps consecutive keys to unrelated numbers."""
    found = np.array(bits, np.uint64)
    mix(found, np.empty_like(found))
    return found


def mix(bits: Hashes, room: Hashes) -> None:
    """`mixed` in place. room: a buffer of the same shape, which is overwritten."""
    with np.errstate(over="ignore"):
        for shift, factor in _STEPS:
            np.right_shift(bits, shift, out=room)
            np.bitwise_xor(bits, room, out=bits)
            np.multiply(bits, factor, out=bits)
        np.right_shift(bits, np.uint64(31), out=room)
        np.bitwise_xor(bits, room, out=bits)


def of_rows(rows: NDArray[Any]) -> Hashes:
    """A hash [N] of each row's bytes; rows: [N, ...].

    The sum of a hash of each word and its position in the row. Two different rows have the same hash with a probability
    of about 2^-64.
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    words = -(-flat.shape[1] // 8)
    if flat.shape[1] % 8:
        padded = np.zeros((len(flat), 8 * words), np.uint8)
        padded[:, : flat.shape[1]] = flat
        flat = padded
    bits = flat.view(np.uint64) + _places(words)
    mix(bits, np.empty_like(bits))
    found: Hashes = bits.sum(axis=1, dtype=np.uint64)
    return found


def of_stretches(values: NDArray[Any], lengths: NDArray[np.int64]) -> Hashes:
    """A hash [N] of each row's bytes, for rows of different lengths with concatenated values [V, ...]."""
    of_values, ends = of_rows(values), np.cumsum(lengths)
    places = np.arange(1, len(of_values) + 1) - np.repeat(ends - lengths, lengths)
    with np.errstate(over="ignore"):
        placed = mixed(of_values + places.astype(np.uint64) * GOLDEN)
        summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(placed)])
        found: Hashes = mixed(summed[ends] - summed[ends - lengths] + lengths.astype(np.uint64))
    return found


@lru_cache(maxsize=4)
def _places(words: int) -> Hashes:
    """A key for each position of a word in a row."""
    return mixed(np.arange(1, words + 1, dtype=np.uint64) * GOLDEN)
