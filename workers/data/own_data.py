"""Data that the user's own code returns: a factory of all splits, or a class that reads each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from workers.data.column import Column
from workers.data.examples import AnyColumn, Columns, Examples, X
from workers.data.labels import LABELLED
from workers.data.ragged import Ragged
from workers.data.splits import SPLITS, Groups, Labels, Read, Splits, uris
from workers.errors import RequestError
from workers.specs.data import DataSpec
from workers.user_code import calls, factories


def read_python(spec: DataSpec) -> Read:
    """What a data factory returns. Pairs (x, y) may be triples (x, y, groups)."""
    assert spec.factory is not None, "checked by DataSpec"
    if spec.stages:
        raise RequestError(
            f"student.{next(iter(spec.stages))}.data: a file, and `data.kind` is python, which reads none. Expected "
            "another kind."
        )
    returned = factories.call(spec.factory, spec.kwargs, spec.folder)
    where = f"data.factory '{spec.factory}'"
    if not isinstance(returned, dict):
        raise RequestError(
            f"{where} returned {type(returned).__name__}; expected a dict "
            '{"train": (x, y), "test": (x, y), "validation": (x, y), "unlabeled": x}.'
        )
    splits: Splits = {}
    groups: dict[str, Groups] = {}
    for name in LABELLED:
        if isinstance(returned.get(name), tuple) and len(returned[name]) == 3:
            *pair, of_each = returned[name]
            returned = {**returned, name: tuple(pair)}
            groups |= {} if of_each is None else {name: of_each}
    for name, value in returned.items():
        if name not in SPLITS:
            raise RequestError(f"{where} returned an unknown split '{name}'; expected {', '.join(SPLITS)}.")
        if name == "unlabeled":
            if value is not None:
                splits[name] = (_as_examples(value, f"{where}, split '{name}'"), None)
        elif isinstance(value, tuple) and len(value) == 2:
            splits[name] = _labelled(*value, f"{where}, split '{name}'")
        else:
            raise RequestError(f"{where} returned {type(value).__name__} for '{name}'; expected a pair (x, y).")
    for name in ("train",) if spec.test_share is not None else ("train", "test"):
        if name not in splits:
            raise RequestError(f"{where} returned no '{name}' split; expected at least train and test.")
    for name in ("validation", "test"):
        if name in splits and getattr(spec, f"{name}_share") is not None:
            raise RequestError(f"data.{name}_share: {where} returns a `{name}` split. Leave `{name}_share` out.")
    return Read(splits, groups)


def read_by_own(spec: DataSpec) -> Splits:
    """Read with the user's own class, which is called for each split."""
    reader = factories.call(spec.kind, spec.kwargs, spec.folder)
    splits: Splits = {}
    for name, uri in uris(spec).items():
        where = f"data.kind '{spec.kind}', split '{name}' ('{uri}')"
        with calls.checked(f"{where}:", "", but=(MemoryError,)):
            returned = reader(uri)
        x, y = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        if y is None and name in LABELLED:
            raise RequestError(f"{where} returned {type(returned).__name__}; expected a pair (x, y).")
        splits[name] = _labelled(x, y, where) if name in LABELLED else (_as_examples(x, where), None)
    return splits


def _labelled(x: Any, y: Any, where: str) -> tuple[Examples, Labels]:
    """Examples and their labels: [N], or `Ragged` rows with a label for each element of an example.

    Elements with labels are positions, unless the examples have their own positions. Only train may have unlabelled
    positions.
    """
    examples = _as_examples(x, where)
    _check_unmasked("y", y, where)
    with _converted(f"{where}: y makes no array of labels:", "a label for each example, or a row for each"):
        if isinstance(y, list) and y and np.ndim(y[0]) == 1:
            y = Ragged.of(y)
        return examples, y if isinstance(y, Ragged) else np.asarray(y)


def _converted(before: str, expected: str) -> AbstractContextManager[None]:
    """Turns what numpy raises for values that make no array into a `RequestError`."""
    return calls.checked(before, f". Expected {expected}.", but=(MemoryError,))


def _check_unmasked(name: str, value: Any, where: str) -> None:
    """Raise `RequestError` for a masked array, or rows of which one is: numpy converts them without their masks."""
    if any(isinstance(each, np.ma.MaskedArray) for each in (value if isinstance(value, list) else [value])):
        raise RequestError(f"{where}: {name} is a masked array; expected values for all. Return {name}.filled(...).")


def _as_examples(value: Any, where: str) -> Examples:
    """Convert a factory's x: an array, rows of different lengths, or a dict of both by name."""
    if isinstance(value, Columns):
        return _as_columns(value.columns, value.positions, value.elements_of, where)
    if isinstance(value, Ragged):
        return Columns({X: value})
    if isinstance(value, Mapping):
        return _as_columns(value, None, "", where)
    with _converted(f"{where}: x is a list of rows that make no array:", "a numpy array"):
        differ = isinstance(value, list) and len({np.shape(row) for row in value[:LOOKED_AT]}) > 1
    if differ:
        raise RequestError(
            f"{where}: x is a list of rows of different lengths; expected them under a name, such as "
            '{"tokens": rows}, by which models take them.'
        )
    return _as_column(value, where)


def _as_columns(given: Mapping[str, Any], positions: Any, elements_of: str, where: str) -> Columns:
    wrong = [name for name in given if not (isinstance(name, str) and name.isidentifier())]
    if wrong or not given:
        raise RequestError(
            f"{where}: x is a dict with the keys {list(given)}; expected at least one column, each under a name "
            "that can be an argument of a model."
        )
    columns = {name: _as_any_column(column, f"{where}, column '{name}'") for name, column in given.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise RequestError(f"{where}: x has columns of different lengths, {sizes}; expected as many in each.")
    if positions is not None and not isinstance(positions, Ragged):
        with _converted(f"{where}, positions: {ODD_ROWS}:", ROWS_ALIKE):
            positions = Ragged.of(positions)
    if elements_of and elements_of not in columns:
        raise RequestError(f"{where}: `elements_of` is '{elements_of}'; expected one of {', '.join(columns)}.")
    return Columns(columns, positions, elements_of)


def _as_any_column(value: Any, where: str) -> AnyColumn:
    if not isinstance(value, list):
        return value if isinstance(value, Ragged) else _as_column(value, where)
    _check_unmasked("x", value, where)
    with _converted(f"{where}: {ODD_ROWS}:", ROWS_ALIKE):
        if value and all(np.ndim(row) >= 1 for row in value):
            return Ragged.of(value)
        value = np.asarray(value)
    return _as_column(value, where)


def _as_column(value: Any, where: str) -> Column:
    """Convert a factory's dense column, after a check that it supports the interface of `Column`."""
    for method, what in CONVERSIONS.items():
        if hasattr(value, method) and not isinstance(value, np.ndarray):
            raise RequestError(
                f"{where}: x is {type(value).__name__}, {what}; expected a dense numpy array. Return x.{method}()."
            )
    _check_unmasked("x", value, where)
    if isinstance(value, np.matrix):  # its rows are matrices
        value = np.asarray(value)
    try:
        if type(value).__module__.startswith("torch"):
            value = np.asarray(value)
        _try_rows(value)
    except Exception as error:  # from the user's own class
        raise RequestError(
            f"{where}: x is {type(value).__name__}, which is no array of examples ({type(error).__name__}: {error}). "
            "Expected a numpy array, or an object with shape, dtype, a length, and x[rows] for a slice and for an "
            "array of rows in any order."
        ) from error
    column: Column = value
    return column


ODD_ROWS, ROWS_ALIKE = "a list of rows that differ in more than their length", "rows of one type and shape"
LOOKED_AT = 1000
"""Rows of a list that are compared, to tell rows of different lengths from an array."""
CONVERSIONS = {"toarray": "a sparse matrix", "to_numpy": "a table"}
"""Conversion methods of objects that are not arrays, and the names of such objects."""


def _try_rows(value: Any) -> None:
    """Raise where `value` does not support the interface of `Column`."""
    shape, dtype = tuple(int(size) for size in value.shape), np.dtype(value.dtype)
    if not shape:
        return  # the error about the labels names it
    if len(value) != shape[0]:
        raise TypeError(f"its length is {len(value)} and its shape {shape}")
    last = min(len(value), 2)
    for rows in (slice(0, last), np.arange(last)[::-1].copy()):
        found = value[rows]
        if not isinstance(found, np.ndarray) or found.shape != (last, *shape[1:]) or found.dtype.kind != dtype.kind:
            seen = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise TypeError(f"x[{rows}] is {seen}; expected an array of {dtype} {(last, *shape[1:])}")
