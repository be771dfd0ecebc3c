"""Groups of test examples: which of them belong together when intervals are drawn, such as the examples of one user.

Examples of a group resemble each other, so that intervals by single examples would be too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from workers.data.arrays import Index
from workers.errors import RequestError

FEW = 10
"""Groups below which the bootstrap says little."""


def numbered(values: Any, examples: int, notes: list[str]) -> Index | None:
    """The group of each of N test examples, as numbers from 0: [N] int64; None without groups.

    values: one of any type for each example. Appends a note where there are too few groups for an interval. Raises:
    `RequestError` for null, several values for an example, or another number of values.
    """
    if values is None:
        return None
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise RequestError(
            f"data.test: groups of shape {list(values.shape)}; expected one value for each example, [N]."
        )
    given = list(values)
    if several := [k for k, value in enumerate(given) if not isinstance(value, Hashable)]:
        raise RequestError(
            f"data.test: the group of example {several[0]} is {given[several[0]]!r}; expected one value, such as a "
            "number or a text."
        )
    if len(given) != examples:
        raise RequestError(
            f"data.test: {len(given):,} groups for {examples:,} examples; expected the group of each example."
        )
    missing = [k for k, value in enumerate(given) if value is None or value != value]
    if missing:
        raise RequestError(
            f"data.test: example {missing[0]} has no group, and {len(missing):,} in all; expected one for each."
        )
    places: dict[Any, int] = {}
    found = np.array([places.setdefault(_plain(value), len(places)) for value in given], np.int64)
    if len(places) < FEW:
        notes.append(f"data.test: its examples are in {len(places)} groups; intervals from fewer than {FEW} are rough.")
    return found


def renumbered(grouped: Index) -> Index:
    """The groups [n] of some examples, numbered from 0 without gaps."""
    found: Index = np.unique(grouped, return_inverse=True)[1].astype(np.int64)
    return found


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
