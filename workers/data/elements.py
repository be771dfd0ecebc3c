"""Elements of examples as positions: finds their column, selects labelled ones, and validates their indices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workers.data.arrays import Index
from workers.data.examples import AnyColumn, Columns, Examples, columns_of, explicit_positions
from workers.data.labels import UNLABELLED
from workers.data.ragged import Ragged, edges_of, per_row
from workers.errors import RequestError


def lengths_of(column: AnyColumn) -> Index | None:
    """Number of elements of each example in a column: [N]; None for a column of scalars."""
    if isinstance(column, Ragged):
        return column.lengths
    return np.full(len(column), column.shape[1]) if len(column.shape) > 1 else None


def located(name: str, x: Examples, labels: Ragged | None, column: str) -> Columns:
    """The examples of the split `data.<name>` with their positions, and the column that these belong to.

    Without explicit positions each element is one. labels: those of the split; None without labels. column: that of the
    training examples, where it is known.

    Raises: `RequestError` where no column has as many elements as there are labels, or an element does not exist.
    """
    if not isinstance(x, Columns) and not x.shape:
        raise RequestError(f"data.{name}: x is one number; expected examples, an array [N, L, ...] or rows.")
    columns = columns_of(x)
    known = {each: lengths for each, values in columns.items() if (lengths := lengths_of(values)) is not None}
    ragged = [each for each in known if isinstance(columns[each], Ragged)]
    candidates = [column] if column in known else [*ragged, *(each for each in known if each not in ragged)]
    if isinstance(x, Columns) and x.positions is not None:
        of = x.elements_of or next(iter(candidates), "")
        _check(name, x, x.positions, of, known.get(of))
        return replace(x, elements_of=of)
    fits = [each for each in candidates if labels is None or np.array_equal(known[each], labels.lengths)]
    if not fits:
        found = ", ".join(f"{int(lengths.sum()):,} elements of '{each}'" for each, lengths in known.items())
        count = 0 if labels is None else int(labels.lengths.sum())
        raise RequestError(
            f"data.{name}: y has {count:,} labels in {len(labels or ()):,} rows, and x has {found or 'numbers alone'} "
            f"in {len(x):,} examples. Expected a label for each element of a column."
        )
    return Columns(columns, Ragged.counting(known[fits[0]]), fits[0])


def _check(name: str, x: Columns, positions: Ragged, column: str, lengths: Index | None) -> None:
    """Raise `RequestError` unless the positions are ascending elements of the column."""
    if positions.dtype.kind not in "iu" or positions.of_value:
        raise RequestError(
            f"data.{name}: positions are {positions.dtype}; expected whole numbers, the elements' places."
        )
    if lengths is None:
        raise RequestError(
            f"data.{name}: positions are elements of the column '{column}', and x has {', '.join(x.columns)}. Expected "
            "a ragged column, or a dense one of shape [N, L, ...]."
        )
    if len(positions) != len(x):
        raise RequestError(
            f"data.{name}: positions have {len(positions):,} rows, and x {len(x):,} examples; expected as many."
        )
    of_each, flat = np.repeat(np.arange(len(x)), positions.lengths), positions.flat
    follows = np.concatenate([np.zeros(min(len(flat), 1), bool), of_each[1:] == of_each[:-1]])
    ascends = np.concatenate([np.ones(min(len(flat), 1), bool), flat[1:] > flat[:-1]]) | ~follows
    wrong = np.flatnonzero((flat < 0) | (flat >= lengths[of_each]) | ~ascends)
    if len(wrong):
        example = int(of_each[wrong[0]])
        raise RequestError(
            f"data.{name}: position {flat[wrong[0]]} of example {example} is none of its {lengths[example]} elements "
            f"of '{column}', or does not follow the one before; expected them ascending, from 0."
        )


def check_each_has_one(name: str, x: Examples) -> None:
    """Raise `RequestError` where an example for training has no position."""
    where = explicit_positions(x)
    if where is not None and not where.lengths.all():
        without = np.flatnonzero(where.lengths == 0)
        raise RequestError(
            f"data.{name}: example {without[0]} has no position, and {len(without):,} in all have none; expected at "
            "least one in each that trains. Leave such examples out."
        )


def labelled(name: str, x: Examples, y: Index) -> tuple[Examples, Index]:
    """The examples with only their labelled positions, since metrics need labels.

    Raises: `RequestError` where no position has a label.
    """
    where = explicit_positions(x)
    if where is None or not isinstance(x, Columns) or not (y == UNLABELLED).any():
        return x, y
    has = y != UNLABELLED
    if not has.any():
        raise RequestError(f"data.{name}: no element has a label (all are -1); expected some to measure by.")
    return replace(x, positions=Ragged.packed(where.flat[has], per_row(has, edges_of(where.lengths)))), y[has]
