"""Reads Parquet files into arrays. Columns are matched by name in every split.

The features are train's columns in train's order, or those that the configuration names. Other splits may have them in
another order. Columns of an index are not features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from workers.data import memory, shards, table_files
from workers.data.labels import LABELLED, label_fix
from workers.errors import MissingColumn, RequestError, first_few, first_line

Array = NDArray[Any]

INDEX = re.compile(r"|__index_level_\d+__|Unnamed: 0(\.\d+)?")
"""Names of an unnamed index: none as pandas and R write it to a CSV, and pandas' own names, in Parquet even without its
metadata and after one CSV round trip or several."""
ROW_NUMBERS_FROM = 20
"""Fewest rows for which a column of distinct whole numbers may be an index, of this table or a larger one. So many
random draws from a range of less than a twentieth of their square would hardly all be distinct."""
NAMED, LISTED = 5, 20
"""Most values, and most columns, that a message names."""
VALUE_BYTES = 8
"""Largest size of a number after reading."""


@dataclass(frozen=True)
class Table:
    """A split's files by their URIs, of which only the footers have been read. uri: of them all."""

    split: str
    uri: str
    files: Mapping[str, pq.ParquetFile]

    @cached_property
    def schema(self) -> pa.Schema:
        return shards.schema({uri: file.schema_arrow for uri, file in self.files.items()})

    @cached_property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def read(self, names: Sequence[str]) -> pa.Table:
        """The columns of these names, in the order of the files."""
        return shards.joined({uri: file.read(columns=[*names]) for uri, file in self.files.items()})

    def error(self, found: str) -> RequestError:
        return RequestError(f"'{self.uri}': {found}")


@dataclass(frozen=True)
class Roles:
    """The names of columns: the label, the groups, and the features; None: every other column of train."""

    label: str
    features: Sequence[str] | None = None
    groups: str | None = None


def index_columns(schema: pa.Schema) -> set[str]:
    """The columns of a table that are an index, by pandas' metadata or by their names, and so no data. A name may be
    that of an index which the file stores as a range."""
    metadata = (schema.metadata or {}).get(b"pandas", b"{}")
    try:
        listed = json.loads(metadata).get("index_columns", [])
    except (ValueError, AttributeError, RecursionError):  # invalid metadata
        listed = []
    entries = listed if isinstance(listed, list) else []
    by_pandas = [each.get("name") if isinstance(each, dict) else each for each in entries]
    by_name = {name for name in schema.names if INDEX.fullmatch(name)}
    return by_name | {name for name in by_pandas if isinstance(name, str)}


def read(
    uris: Mapping[str, str], roles: Roles, notes: list[str]
) -> tuple[dict[str, tuple[Array, Array | pa.ChunkedArray | None]], dict[str, int]]:
    """Features [N, ...] and labels [N] of each split; `unlabeled` has no labels. And the feature columns in their
    order, with how many numbers of an example each of them has. Where the labels of train are texts, those of each
    split are the column as it is.

    By default, features are train's columns without the label, the groups and the index of pandas or R.
    """
    label, features = roles.label, roles.features
    tables = {split: _open(split, uri) for split, uri in uris.items()}
    index = _index(tables, label)
    excluded = _excluded(index, roles)
    names = _features(tables["train"], label, features, excluded)
    by_name = _is_text(tables["train"].schema.field(label).type)
    found = {}
    for split, table in tables.items():
        labelled = split in LABELLED
        if labelled:
            _check_label(table, label)
        _check_columns(table, names, {label, *excluded}, tables["train"], chosen=features is not None)
        found[split] = _arrays(table, names, label if labelled else None, by_name)
    if features is None:
        notes += left_out_index(sorted(index - {roles.groups})) + _unused_labels(tables, label)
        x = found["train"][0]
        notes += row_numbers(zip(names, x.T, strict=True) if x.shape == (len(x), len(names)) else ())
    return found, _widths(tables["train"], names)


def _widths(train: Table, names: Sequence[str]) -> dict[str, int]:
    batches = (batch for file in train.files.values() for batch in file.iter_batches(1, columns=[*names]))
    first = next(batches, None)  # None: no rows, which its caller refuses
    return {} if first is None else {name: np.asarray(first.column(name)[0].as_py()).size for name in names}


def _index(tables: Mapping[str, Table], label: str) -> set[str]:
    """The columns that are an index in any split."""
    index = {name for table in tables.values() for name in index_columns(table.schema) if name != label}
    return {name for name in index if any(name in table.columns for table in tables.values())}


def _excluded(index: set[str], roles: Roles) -> set[str]:
    return index | ({roles.groups} if roles.groups is not None else set())


def read_groups(uri: str, name: str) -> list[Any]:
    """The values of the column `name` of a file, of any type; None for null."""
    table = _open("test", uri)
    if name not in table.columns:
        raise MissingColumn(f"'{uri}': no column '{name}'; found {_listed(table.columns)}. Set `data.group_column`.")
    try:
        found: list[Any] = table.read([name]).column(name).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise table.error(f"column '{name}' cannot be read ({first_line(error)}). Write the file anew.") from error
    return found


def _open(split: str, uri: str) -> Table:
    uris = shards.files(uri, (".parquet",))
    shards.require_memory(uris)
    return Table(split, uri, {each: _file(each) for each in uris})


def _file(uri: str) -> pq.ParquetFile:
    content = memory.read_whole(uri)
    try:
        file = pq.ParquetFile(pa.BufferReader(content.getbuffer()))
        columns = file.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError(
            f"'{uri}': not a Parquet file ({first_line(error)}); expected one. Write it again, or set `data.kind` to "
            "the kind of this file."
        ) from error
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise RequestError(
            f"'{uri}': several columns are called {_listed(twice)}. Expected each name once; rename them."
        )
    return file


def _features(train: Table, label: str, chosen: Sequence[str] | None, index: Collection[str]) -> list[str]:
    """The names of the feature columns. index: columns that are an index in any split; they are excluded in all."""
    _check_label(train, label)
    if chosen is not None:
        return list(chosen)
    names = [name for name in train.columns if name != label and name not in index]
    if not names:
        raise train.error(
            f"no feature column; found {_listed(train.columns)}, of which '{label}' is the label"
            + (f" and {_listed(sorted(index))} pandas' index" if index else "")
            + ". Write columns of numbers, or one of equally long lists, beside it."
        )
    return names


def _check_label(table: Table, label: str) -> None:
    if label not in table.columns:
        fix = label_fix(label, table.columns)
        raise table.error(f"no label column '{label}'; found {_listed(table.columns)}. {fix}")


def _check_columns(table: Table, names: Sequence[str], others: Collection[str], train: Table, chosen: bool) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing and (chosen or table is train):
        raise table.error(
            f"no feature column {_listed(missing)}; found {_listed(table.columns)}. Set `data.feature_columns`."
        )
    known = {*names, *others}
    more = [] if chosen else [name for name in table.columns if name not in known]
    if missing or more:
        differences = [f"no column {_listed(missing)}, which train has"] if missing else []
        differences += [f"the column {_listed(more)}, which train has not"] if more else []
        raise table.error(
            f"data.{table.split} has {' and '.join(differences)} ('{train.uri}'). Expected the same columns in every "
            "split, in any order; write them so, or name those to use in `data.feature_columns`."
        )


def _arrays(
    table: Table, names: Sequence[str], label: str | None, by_name: bool
) -> tuple[Array, Array | pa.ChunkedArray | None]:
    """The columns `names` side by side [N, ...], and the label column [N]: as it is where train has it `by_name`.

    Raises: `RequestError` where the columns are not numeric in that form.
    """
    try:
        return _read_arrays(table, names, label, by_name)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise table.error(f"cannot be read ({first_line(error)}). Write the file anew.") from error


def _read_arrays(
    table: Table, names: Sequence[str], label: str | None, by_name: bool
) -> tuple[Array, Array | pa.ChunkedArray | None]:
    wanted = [*names, *([] if label is None else [label])]
    _check_memory(table, wanted)
    read = table.read(wanted)
    columns = [_column(table, name, read.column(name)) for name in names]
    if len(columns) > 1 and max(column.ndim for column in columns) > 2:
        raise table.error(
            f"several feature columns, of which one has lists of lists ({_listed(names)}); expected columns of numbers "
            "and of lists, or one of lists of lists alone. Set `data.feature_columns`."
        )
    features = columns[0] if len(columns) == 1 and columns[0].ndim > 1 else np.column_stack(columns)
    column = None if label is None else read.column(label)
    return features, column if label is None or by_name else _labels(table, label, column)


def _check_memory(table: Table, wanted: Sequence[str]) -> None:
    """Raise `RequestError` where a footer declares more values than rows, or all of them more than the memory limit."""
    groups = [
        (uri, file.metadata.row_group(k)) for uri, file in table.files.items() for k in range(file.num_row_groups)
    ]
    needed = 0
    for uri, group in groups:
        for chunk in (group.column(k) for k in range(group.num_columns)):
            path = chunk.path_in_schema
            if path in wanted and chunk.num_values != group.num_rows:
                raise RequestError(
                    f"'{uri}': its footer says {group.num_rows:,} rows and {chunk.num_values:,} values of '{path}'; "
                    "expected as many. Write the file anew."
                )
            if path in wanted or path.split(".")[0] in wanted:
                needed += max(VALUE_BYTES * chunk.num_values, chunk.total_uncompressed_size)
    rows = sum(group.num_rows for _, group in groups)
    memory.require(needed, f"'{table.uri}': {rows:,} rows of {len(wanted)} columns")


def _column(table: Table, name: str, column: pa.ChunkedArray, each: int = 1) -> Array:
    """A feature column: numbers as [N], lists of equal length as [N, length], nested lists likewise.

    each: entries of `column` per row of the table.
    """
    kind = column.type
    if not table_files.is_list(kind):
        _check_no_nulls(table, f"column '{name}'", column, "a number", each)
        return _finite(table, name, _numbers(table, f"column '{name}'", column, FEATURES), each)
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1 or None in lengths:
        seen = ", ".join("none" if length is None else str(length) for length in lengths[:NAMED])
        raise table.error(f"column '{name}' has lists of different lengths or none ({seen}); expected one length.")
    length = lengths[0] if lengths else 0
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], type=kind.value_type)
    inner = _column(table, name, flat, each * max(length, 1))
    return inner.reshape(len(column), length, *inner.shape[1:])


def _labels(table: Table, name: str, column: pa.ChunkedArray) -> Array:
    """The label column as numbers [N]."""
    where = f"label column '{name}'"
    _check_no_nulls(table, where, column, "a class id, -1 for no label,", 1)
    ids = "class names, or ids from 0" if table.split == "train" else "class ids, as in train"
    return _numbers(table, where, column, ids)


def _is_text(kind: pa.DataType) -> bool:
    return table_files.is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


FEATURES = "numbers; encode it as such, or leave it out by `data.feature_columns`"


def _numbers(table: Table, where: str, column: pa.ChunkedArray, expected: str) -> Array:
    """A column without nulls as an array [N]: categories by their values, decimals as float64, booleans as 0 and 1."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _numbers(table, where, column.cast(kind.value_type), expected)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise table.error(f"{where} is of type {kind}; expected {expected}.")
    found: Array = column.to_numpy()
    return found


def _check_no_nulls(table: Table, where: str, column: pa.ChunkedArray, expected: str, each: int) -> None:
    if column.null_count:
        first = int(np.flatnonzero(column.is_null().to_numpy())[0]) // each
        raise table.error(
            f"{where} has {column.null_count:,} empty values (null), the first in row {first}; expected {expected} in "
            "every row. Fill them in, or leave such rows or the column out."
        )


def _finite(table: Table, name: str, values: Array, each: int) -> Array:
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise table.error(
                f"column '{name}' has {len(bad):,} values that are NaN or infinite, the first in row {bad[0] // each}; "
                "expected finite features. Fill them in, or leave such rows or the column out."
            )
    return values


def left_out_index(index: Sequence[str]) -> list[str]:
    """A note on the columns of an index, which are not used as features."""
    if not index:
        return []
    return [
        f"data: the index ({_listed(index)}) is no feature and is left out; where it is data, name it in "
        "`data.feature_columns`."
    ]


def _unused_labels(tables: Mapping[str, Table], label: str) -> list[str]:
    unlabeled = tables.get("unlabeled")
    if unlabeled is None or label not in unlabeled.columns:
        return []
    return [f"data.unlabeled: its label column '{label}' is not used; put labelled examples into `data.train`."]


def row_numbers(columns: Iterable[tuple[str, Array]]) -> list[str]:
    """A note on columns that seem to number the rows. columns: features of train by name, [N] numbers each."""
    found = [name for name, values in columns if _numbers_rows(values)]
    if not found:
        return []
    return [
        f"data.train: {_listed(found)} has another whole number in each row, as an index does; if it is one, name the "
        "other columns in `data.feature_columns`."
    ]


def _numbers_rows(values: Array) -> bool:
    rows = len(values)
    largest = max(3 * rows, rows * rows // ROW_NUMBERS_FROM)
    if rows < ROW_NUMBERS_FROM or values.min() < 0 or values.max() >= largest:
        return False
    if not (values == np.floor(values)).all():  # nor where cells are empty, which are NaN
        return False
    return len(np.unique(values)) == rows


def _listed(names: Sequence[str]) -> str:
    """The names for a message; only the first of many."""
    return first_few(names, LISTED, lambda name: name or "''")
