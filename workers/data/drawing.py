"""Draws validation and test splits from the training examples."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from workers.data import elements
from workers.data.arrays import Index
from workers.data.dataset import NO_ROWS, Split
from workers.data.masked_texts import MaskedColumns
from workers.errors import RequestError
from workers.specs.data import DataSpec

DEFAULT_VALIDATION_SHARE = 0.1
"""Share of training examples held out where neither configuration nor data has a validation split."""
VALIDATION_SEED = 0x5E7A51DE
TEST_SEED = 0x7E575E7


def drawn(train: Split, spec: DataSpec, given: Collection[str], grouped: Index | None, seed: int) -> dict[str, Index]:
    """The training examples of the splits that have no file, by the split: rows of `train`, ascending.

    The test split is the same for every `seed`, so that runs of several seeds are measured on the same examples.
    grouped: [N] the group of each training example, which no split divides; None: each is one of its own.
    """
    found: dict[str, Index] = {}
    taken = np.zeros(0, np.int64)
    if "test" not in given:
        assert spec.test_share is not None, "checked by DataSpec and by the reader"
        taken = found["test"] = _draw(train, "test", spec.test_share, [TEST_SEED], grouped=grouped)
    if "validation" not in given:
        found["validation"] = _draw(
            train, "validation", spec.validation_share, [seed, VALIDATION_SEED], without=taken, grouped=grouped
        )
    return found


def held_out(name: str, train: Split, held: Index) -> Split:
    """The training examples that are held out as the split `name`."""
    taken = train.take(held)
    if isinstance(taken.x, MaskedColumns):
        return Split(taken.x.measured(), None)
    return Split(*elements.labelled(name, taken.x, taken.y))


def _draw(
    train: Split,
    name: str,
    share: float | None,
    seed: list[int],
    *,
    without: Index = NO_ROWS,
    grouped: Index | None = None,
) -> Index:
    """The labelled training examples that are held out as the split `name`, ascending.

    share: of the examples, or of groups; None: a tenth, of groups at least one. without: rows that are not drawn.
    grouped: [N] the group of each example, of which all or none are drawn.
    """
    labelled = np.flatnonzero(train.has_label)
    labelled = np.setdiff1d(labelled, without) if len(without) else labelled
    units = labelled if grouped is None else np.unique(grouped[labelled])
    of = "labelled training examples" if grouped is None else "groups of examples"
    least = 1 if share is None and grouped is not None else 0
    share = DEFAULT_VALIDATION_SHARE if share is None else share
    count = max(least, round(len(units) * share))
    if count == 0 or count == len(units):
        raise RequestError(
            f"data.{name}_share: {share} of {len(units)} {of} is {count}; expected at least one on each side. Give a "
            f"`{name}` split or another share."
        )
    drawn = np.sort(np.random.default_rng(seed).permutation(units)[:count])
    return drawn if grouped is None else labelled[np.isin(grouped[labelled], drawn)]


def unlabelled_of_drawn(train: Split, held: Mapping[str, Index], grouped: Index | None, notes: list[str]) -> Index:
    """The training examples without a label of the groups that were drawn for other splits, ascending.

    A student would learn from the inputs of groups that it is measured on. Appends a note where there are some.
    """
    if grouped is None or not held:
        return NO_ROWS
    of_drawn = np.isin(grouped, grouped[np.concatenate([*held.values()])])
    found = np.flatnonzero(of_drawn & ~train.has_label)
    if len(found):
        notes.append(
            f"data.group_column: {len(found):,} examples without a label are of groups that are drawn for "
            f"{' or '.join(sorted(held))}, so they are left out of train."
        )
    return found
