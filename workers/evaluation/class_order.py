"""Detects a model whose classes are in another order than the classes of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from workers.data.arrays import Index

FIX = "Expected logits in the order of the data's class ids: permute the rows of its last layer, or correct the labels."
"""The end of an error about another order of classes."""
SEEN = 5
"""The fewest examples of a class that count as evidence of its position."""
CHANCE = 1e-4
"""The probability of such answers by chance, above which they count as errors."""
SURE = 0.25
"""The mean confidence from which permuted answers are those of a model that has learned another order. A network of
random weights is below it."""


@dataclass(frozen=True)
class Swapped:
    """Classes that a model takes for each other.

    pairs: which, in words. sure: whether the model is confident of these answers, as one is that has learned its
    classes in another order. A model that is barely trained may take each cluster of examples for one class, too.
    """

    pairs: str
    sure: bool


def confidence(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How sure a model is of its answers [n], by its probabilities [n, K]: from 0 where all classes are alike to 1."""
    classes = probabilities.shape[1]
    found: NDArray[np.float32] = (classes * probabilities.max(axis=1) - 1) / max(classes - 1, 1)
    return found


def swapped(answers: Index, reference: Index, sure: NDArray[np.float32], names: Sequence[str] = ()) -> Swapped | None:
    """Describe how classes of `answers` are permuted against `reference`; None where they are not.

    answers, reference: [n] class ids of the same examples. sure: [n] the `confidence` of the answers. names: of the
    classes; empty: their ids. Some classes count as permuted where most examples of each are predicted as another one
    of these, a different one for each.
    """
    counts = {
        int(label): np.bincount(answers[reference == label], minlength=int(label) + 1)
        for label in np.unique(reference)
        if (reference == label).sum() >= SEEN
    }
    taken = {label: int(found.argmax()) for label, found in counts.items()}
    moved = {a: taken[a] for cycle in _cycles(taken) if _is_permuted(counts, cycle, taken) for a in cycle}
    if not moved:
        return None
    as_moved, of = sum(int(counts[a][b]) for a, b in moved.items()), sum(int(counts[a].sum()) for a in moved)
    pairs = ", ".join(f"{_name(a, names)} it calls {_name(b, names)}" for a, b in sorted(moved.items()))
    as_others = answers == np.array([moved.get(int(label), -1) for label in reference])
    return Swapped(f"{pairs} ({as_moved} of {of} examples)", float(sure[as_others].mean()) >= SURE)


def note(of: str, named: str, found: Swapped) -> str:
    """A note on a model that takes classes for each other and is not sure. of: its name. named: the reference."""
    return (
        f"{of} takes classes for each other, and is not sure: what {named} is {found.pairs}. It is barely trained, or "
        "its classes are in another order than those of the data."
    )


def _cycles(taken: Mapping[int, int]) -> list[list[int]]:
    """The cycles, of two and more classes, in what each class is taken for."""
    found: list[list[int]] = []
    seen: set[int] = set()
    for first in taken:
        path = [first]
        while path[-1] not in seen and taken.get(path[-1]) is not None:
            seen.add(path[-1])
            path.append(taken[path[-1]])
        if path[-1] in path[:-1]:
            found.append(path[path.index(path[-1]) : -1])
    return [cycle for cycle in found if len(cycle) > 1]


def _is_permuted(counts: Mapping[int, Index], cycle: Sequence[int], taken: Mapping[int, int]) -> bool:
    """Whether the answers of a cycle's classes are no errors: most are moved, and more than chance would move."""
    right, moved = sum(int(counts[a][a]) for a in cycle), sum(int(counts[a][taken[a]]) for a in cycle)
    every = sum(int(counts[a].sum()) for a in cycle)
    chance = stats.binomtest(moved, right + moved, alternative="greater").pvalue
    return moved > 0.5 * every and right < 0.5 * moved and chance < CHANCE


def _name(label: int, names: Sequence[str]) -> str:
    return repr(names[label]) if label < len(names) else str(label)
