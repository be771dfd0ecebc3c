"""Groups of examples: which of them belong together, such as the examples of one user.

Examples of a group resemble each other. So intervals by single examples would be too narrow, and a validation or test
split that shares groups with train too easy.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from workers.data.arrays import Index
from workers.data.labels import MEASURED
from workers.errors import RequestError

FEW = 10
"""Groups below which the bootstrap says little."""


def numbered(split: str, values: Any, examples: int) -> Index:
    """The group of each of the N examples of a split, as numbers from 0: [N] int64.

    values: one of any type for each example. Null or a blank text, as of an empty cell of a CSV, makes an example of
    train a group of its own, and is refused where systems are measured. Raises: `RequestError` for one there, several
    values for an example, or another number of values.
    """
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise RequestError(
            f"data.{split}: groups of shape {list(values.shape)}; expected one value for each example, [N]."
        )
    try:
        given = list(values)
    except TypeError:
        raise RequestError(
            f"data.{split}: the groups are {type(values).__name__}; expected one value for each example, [N]."
        ) from None
    if several := [k for k, value in enumerate(given) if not isinstance(value, Hashable)]:
        raise RequestError(
            f"data.{split}: the group of example {several[0]} is {given[several[0]]!r}; expected one value, such as a "
            "number or a text."
        )
    if len(given) != examples:
        raise RequestError(
            f"data.{split}: {len(given):,} groups for {examples:,} examples; expected the group of each example."
        )
    missing = [k for k, value in enumerate(given) if _is_missing(value)]
    if missing and split in MEASURED:
        raise RequestError(
            f"data.{split}: example {missing[0]} has no group, and {len(missing):,} in all; expected one for each."
        )
    places: dict[Any, int] = {}
    found = np.array([places.setdefault(_plain(value), len(places)) for value in given], np.int64)
    found[missing] = len(places) + np.arange(len(missing))
    return found


def notes(tested: Index | None) -> list[str]:
    """A note where the test examples are in too few groups for an interval. tested: [N]; None: in none."""
    count = FEW if tested is None else len(np.unique(tested))
    if count >= FEW:
        return []
    return [f"data.test: its examples are in {count} groups; intervals from fewer than {FEW} are rough."]


def of_measured(grouped: Mapping[str, Index], drawn: Mapping[str, Index]) -> dict[str, Index]:
    """The groups [n] of the splits that systems are measured on, numbered from 0 without gaps, by split.

    grouped: those of each split that is given. drawn: the rows of train of each that is drawn from it.
    """
    given = {name: of for name, of in grouped.items() if name in MEASURED}
    of_train = grouped.get("train")
    if of_train is None:
        return given
    apart = {name: np.unique(of_train[rows], return_inverse=True)[1] for name, rows in drawn.items()}
    return given | {name: of.astype(np.int64) for name, of in apart.items()}


def _is_missing(value: Any) -> bool:
    return bool(value is None or value != value or (isinstance(value, str) and not value.strip()))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
