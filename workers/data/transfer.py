"""Which examples the transfer set has: those of some classes left out, and of the others a share.

A share is the beginning of one random order of the seed. So a smaller share is a part of a larger one, and accuracy by
the size of the transfer set is a curve over the same examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.data import labels
from workers.data.arrays import Index
from workers.errors import RequestError

KEY = "data.transfer_share"
SEED = 0x5A4BE


def of_train(
    share: float | None, has_label: NDArray[np.bool_], *, units: Index, seed: int, kept: Index | None = None
) -> Index:
    """The training examples that student and baseline learn from, ascending.

    share: of the examples with a label and of those without, each for itself; None: all. has_label: [N] whether an
    example has one. units: [N] what each example belongs to, such as its group; units are not divided. kept: the
    examples of no class that is left out, ascending; None: all.

    Raises: `RequestError` where no example with a label is left.
    """
    chosen = np.arange(len(has_label)) if kept is None else kept
    if share is None:
        return chosen
    labelled, others = chosen[has_label[chosen]], chosen[~has_label[chosen]]
    found = of_share(share, labelled, units, seed)
    if not len(found):
        raise RequestError(
            f"{KEY}: {share} of {len(np.unique(units[labelled])):,} labelled training examples, or groups of them, is "
            "0, and the baseline needs some. Give a larger share."
        )
    return np.sort(np.concatenate([found, of_share(share, others, units, seed)]))


def of_share(share: float, rows: Index, units: Index, seed: int) -> Index:
    """Those of the examples `rows` [n] whose units are in the share, in their order. units: [N] of all examples."""
    if not len(rows):
        return rows
    place = np.random.default_rng([seed, SEED]).permutation(int(units.max()) + 1)
    known = np.unique(units[rows])
    first = known[np.argsort(place[known])][: round(share * len(known))]
    return rows[np.isin(units[rows], first)]


def copied(examples: int, copies: int) -> Index:
    """The unit of each of so many examples, where they are copy after copy of the same texts: [N] int64."""
    return np.arange(examples) % (examples // copies)


def note(y: Index, left: Index, without: Sequence[int], names: Sequence[str]) -> list[str]:
    """A note on classes that lost all their labelled examples to the share. y, left: labels of all, and of the rest."""
    lost = np.setdiff1d(np.setdiff1d(y, left), without)
    if not len(lost):
        return []
    return [
        f"{KEY}: no labelled example of {labels.in_words(lost, names)} is left, which data.train has; the "
        "baseline cannot learn it. Give a larger share."
    ]
