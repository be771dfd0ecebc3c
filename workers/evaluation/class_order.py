"""Whether answers follow the labels under other names: a model whose classes are in another order than the data's."""

from __future__ import annotations

import numpy as np

from workers.data.arrays import Index

SEEN = 5
"""Examples of a class, from how many on it says something about the order."""


def swapped(answers: Index, reference: Index) -> str | None:
    """How the classes of `answers` are permuted against `reference`, in words; None where they are not.

    answers, reference: [n] class ids of the same examples. They are permuted where most examples of each class get the
    same wrong one, and no two classes the same.
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
