"""Class names of labels that are given as text, and the class ids that stand for them.

The names of the training split decide: class k is the k-th name in sorted order, or in the order that a file declares.
The other splits are matched by name, so their files may list the classes in another order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Index
from workers.errors import RequestError, first_few

WHOLE = re.compile(r"-?\d{1,18}")
HARDLY_SEEN = "case, white space, leading zeros or Unicode form"
NAMED = 10
"""Most names that a message lists."""
NO_LABEL = "-1"
"""What stands for no label beside whole numbers."""


@dataclass(frozen=True)
class NamedLabels:
    """The labels of N examples by name.

    ids: [N] int64, each label's place in `names`, -1 for none. declared: whether the order of `names` is that of the
    classes, by the file's own declaration.
    """

    ids: Index
    names: tuple[str, ...]
    declared: bool = False

    @classmethod
    def of(cls, labels: NDArray[Any]) -> NamedLabels:
        """The labels in an array [N] of text."""
        names, ids = np.unique(labels.astype(str), return_inverse=True)
        return cls(ids.astype(np.int64), tuple(map(str, names)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def are_numbers(self) -> bool:
        """Whether all names are whole numbers, each spelled in one way, as the class ids in a file without types."""
        whole = not self.declared and all(WHOLE.fullmatch(name) for name in self.names)
        return whole and len({*map(int, self.names)}) == len(self.names)

    def numbers(self) -> Index:
        """The numbers [N] that the names are."""
        found: Index = np.array([*map(int, self.names), -1], np.int64)[self.ids]
        return found


def ids_or_names(labels: Mapping[str, Sequence[str | None]]) -> dict[str, NamedLabels | Index]:
    """The labels of each split, given as texts; None for no label.

    They are class ids where those of train are whole numbers from 0 without a gap, and -1 for none. Otherwise they are
    names, in the order of the numbers where all are numbers; -1 is none beside two numbers from 0 on or more.
    """
    names = sorted({each for each in labels["train"] if each is not None})
    if names and all(WHOLE.fullmatch(each) for each in names):
        if _are_ids(names) and all(each is None or WHOLE.fullmatch(each) for y in labels.values() for each in y):
            return {split: np.array([int(each or -1) for each in y], np.int64) for split, y in labels.items()}
        others = [each for each in names if each != NO_LABEL]
        if len(others) > 1 and all(int(each) >= 0 for each in others):
            names = others
            labels = {split: [None if each == NO_LABEL else each for each in y] for split, y in labels.items()}
        names.sort(key=int)
    known = {split: {*names, *(each for each in y if each is not None)} for split, y in labels.items()}
    return {split: _as_named(y, [*names, *sorted(known[split] - {*names})]) for split, y in labels.items()}


def _are_ids(names: Collection[str]) -> bool:
    """Whether whole numbers are 0 ... K-1, each spelled in one way, and maybe -1."""
    numbers = sorted(int(each) for each in names if each != NO_LABEL)
    return numbers == [*range(len(numbers))]


def _as_named(labels: Sequence[str | None], names: Sequence[str]) -> NamedLabels:
    """Labels by names, whose order is that of the classes."""
    places = {name: k for k, name in enumerate(names)}
    ids = np.array([-1 if each is None else places[each] for each in labels], np.int64)
    return NamedLabels(ids, tuple(names), declared=True)


def resolved(labels: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The labels of each split with class ids instead of names, and the names in the order of the ids.

    Splits without names stay unchanged; the names are empty where no split has any. Raises: `RequestError` where only
    some splits have names, and where a split has a name that the training split never has.
    """
    given = {split: _named(y) for split, y in labels.items() if y is not None}
    named = {split: y for split, y in given.items() if isinstance(y, NamedLabels)}
    if not named:
        return {**labels, **given}, ()
    if all(y.are_numbers for y in named.values()):  # the ids of files without types
        return {**labels, **given, **{split: y.numbers() for split, y in named.items()}}, ()
    other = [split for split in given if split not in named]
    if other:
        raise RequestError(
            f"data.{other[0]}: the labels are numbers, and those of data.{next(iter(named))} are names. Expected the "
            "same in each split. Write names, or numbers, in all files."
        )
    train = named["train"]
    used = np.unique(train.ids[train.ids >= 0])
    names = train.names if train.declared else tuple(sorted(train.names[k] for k in used))
    return {**labels, **{split: _ids(split, y, names) for split, y in named.items()}}, names


def _folded(name: str) -> str:
    """A name without what is hard to see: case, amount of white space, leading zeros, form of its characters."""
    folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return str(int(folded)) if WHOLE.fullmatch(folded) else folded


def alike(names: Sequence[str], y: Index) -> list[str]:
    """A note on classes whose names differ in what is hard to see alone. y: [P] labels, -1 for none."""
    by_folded: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        by_folded.setdefault(_folded(name), []).append(k)
    groups = [several for several in by_folded.values() if len(several) > 1]
    if not groups:
        return []
    counts = np.bincount(y[y >= 0], minlength=len(names))
    shown = [" and ".join(f"{names[k]!r} ({counts[k]:,})" for k in several) for several in groups]
    more = f"; and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return [
        f"data.train: names of classes that differ in {HARDLY_SEEN} alone are classes of their own: "
        f"{'; '.join(shown[:NAMED])}{more}. Where they are one class, write them alike."
    ]


def _named(y: Any) -> Any:
    """Arrays of text as `NamedLabels`; all other labels unchanged."""
    is_text = isinstance(y, np.ndarray) and y.ndim == 1 and len(y) > 0
    if is_text and (y.dtype.kind in "UT" or (y.dtype.kind == "O" and all(isinstance(each, str) for each in y))):
        return NamedLabels.of(y)
    return y


def _ids(split: str, y: NamedLabels, names: Sequence[str]) -> Index:
    """The class ids [N] of a split's labels."""
    places = {name: k for k, name in enumerate(names)}
    of_name = np.array([places.get(name, -1) for name in y.names], np.int64)
    has_name = y.ids >= 0  # the others are left to the check of their range
    ids = y.ids.copy()
    ids[has_name] = of_name[y.ids[has_name]]
    unknown = np.flatnonzero(has_name & (ids < 0))
    if len(unknown):
        name = y.names[y.ids[unknown[0]]]
        near = next((known for known in names if _folded(known) == _folded(name)), None)
        raise RequestError(
            f"data.{split}: the label {name!r} of example {unknown[0]} is none of the {len(names)} that data.train "
            f"has: {listed(names)}; {len(unknown):,} such {'label' if len(unknown) == 1 else 'labels'} in all."
            + ("" if near is None else f" It differs from {near!r} in {HARDLY_SEEN} alone.")
            + " Correct them, or leave such examples out."
        )
    return ids


def listed(names: Sequence[str]) -> str:
    """The names for a message; only the first of many."""
    return first_few(names, NAMED)
