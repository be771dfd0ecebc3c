"""Detects a model whose classes are in another order than the classes of the data."""

from __future__ import annotations

import numpy as np

from workers.data.arrays import Index

SEEN = 5
"""The fewest examples of a class that count as evidence of its position."""


def swapped(answers: Index, reference: Index) -> str | None:
    """Describe how the classes of `answers` are permuted against `reference`; None where they are not.

    answers, reference: [n] class ids of the same examples. They count as permuted where most examples of each class
    are predicted as one wrong class, a different one for each class.
    """
    names: dict[int, int] = {}
    right = moved = 0
    for label in np.unique(reference):
        found = np.bincount(answers[reference == label])
        if found.sum() < SEEN:
            continue
        most = int(found.argmax())
        right += int(found[label]) if label < len(found) else 0
        moved += int(found[most])
        names[int(label)] = most
    total = sum(int((reference == label).sum()) for label in names)
    one_to_one = len(set(names.values())) == len(names)
    if len(names) > 1 and one_to_one and moved > 0.7 * total and right < 0.5 * moved:
        pairs = ", ".join(f"{a} it calls {b}" for a, b in names.items() if a != b)
        return f"{pairs} ({moved} of {total} examples)"
    return None
