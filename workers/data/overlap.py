"""Examples that two splits share, found by the hashes of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workers.data.arrays import Index
from workers.data.labels import UNLABELLED
from workers.data.scan import Found
from workers.errors import RequestError
from workers.hashing import GOLDEN, Hashes, mixed

NEVER_THE_SAME = (("train", "validation"), ("train", "test"))
"""Pairs of splits of which the second may not have the examples of the first."""
PAIRS = (
    *NEVER_THE_SAME, ("validation", "test"),
    ("unlabeled", "validation"), ("unlabeled", "test"), ("train", "unlabeled"),
)  # fmt: skip
"""Pairs of splits to compare; shared examples are counted in the second."""
MANY = 0.05
"""Share of duplicate training examples from which on a note reports them."""


@dataclass(frozen=True)
class Hashed:
    """The examples of a split, or a sample of them: `x` [n] hashes of the inputs, `y` [n] labels, -1 for none."""

    x: Hashes
    y: Index

    @property
    def pairs(self) -> Hashes:
        """Hashes [n] of inputs and label together."""
        return mixed(self.x + (self.y + 2).astype(np.uint64) * GOLDEN)

    def labelled(self) -> Hashed:
        known = self.y != UNLABELLED
        return Hashed(self.x[known], self.y[known])

    def and_also(self, other: Hashed) -> Hashed:
        return Hashed(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


def hashed(found: Found, y: Index | None) -> Hashed:
    """The hashed examples of a scan with their labels. y: [N] labels; None where the split has none."""
    return Hashed(found.hashes, np.full(len(found.rows), UNLABELLED) if y is None else y[found.rows])


def check_same(splits: Mapping[str, Hashed], allowed: bool) -> list[str]:
    """Notes on splits of the user's data that hold the same examples as train, in any order.

    Validation and test may be the same, which `notes` counts: a run chooses by the one what it measures on the other.

    Raises: `RequestError` where a split of the training examples is not `allowed`.
    """
    notes = []
    for one, other in NEVER_THE_SAME:
        if one not in splits or other not in splits or not _equal(splits[one], splits[other]):
            continue
        same = f"data.{one} and data.{other} are the same examples"
        if not allowed:
            raise RequestError(
                f"{same}, so figures on one say nothing of others. Expected splits that share none: give other "
                "examples, or set `data.allow_overlap: true` where this is meant."
            )
        notes.append(f"{same}, as `data.allow_overlap` allows; figures on them say nothing of others.")
    return notes


def _equal(one: Hashed, other: Hashed) -> bool:
    return len(one.x) == len(other.x) > 0 and np.array_equal(np.sort(one.pairs), np.sort(other.pairs))


def notes(splits: Mapping[str, Hashed], every: int) -> list[str]:
    """Notes on shared and on duplicate training examples. every: one row in this number was hashed."""
    of_sample = "" if every == 1 else f" (of a sample of one in {every})"
    found = []
    for one, other in PAIRS:
        if one not in splits or other not in splits:
            continue
        theirs, mine = splits[one], splits[other]
        shared = int(np.isin(mine.x, theirs.x).sum())
        if shared:
            so = "The student sees them twice" if other == "unlabeled" else "Figures on them say little"
            found.append(
                f"data.{other}: {shared:,} of {len(mine.x):,} examples{of_sample} are also in data.{one}, value for "
                f"value{_relabelled(mine.labelled(), theirs.labelled())}. {so}; leave them out of one."
            )
    train = splits["train"]
    repeated = len(train.x) - len(np.unique(train.x))
    if repeated >= MANY * max(len(train.x), 1):
        known = train.labelled()
        unsure = len(np.unique(known.pairs)) - len(np.unique(known.x))
        labels = f", and {unsure:,} times under another label" if unsure else ""
        found.append(
            f"data.train: {repeated:,} of {len(train.x):,} examples{of_sample} repeat an earlier one, value for "
            f"value{labels}. If that is not meant, leave the copies out."
        )
    return found


def _relabelled(mine: Hashed, theirs: Hashed) -> str:
    """Text with the number of shared examples whose labels differ."""
    other = int((np.isin(mine.x, theirs.x) & ~np.isin(mine.pairs, theirs.pairs)).sum())
    return f", {other:,} of them with another label" if other else ""
