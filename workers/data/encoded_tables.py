"""Tables of numbers, categories and empty cells as arrays of numbers. What train holds decides how each column is read.

A column of numbers stays one; empty cells get train's mean, and where train has some, a further column is 1 for them.
A column of texts becomes one column for each text that train has, 1 where it is this one (one-hot); a text that train
never has is 0 in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.data import headers, label_names, shards, table_files, tables
from workers.data.arrays import Float64
from workers.data.label_names import NamedLabels
from workers.data.labels import LABELLED, label_fix
from workers.data.table_files import is_list, is_text, plain
from workers.errors import MissingColumn, RequestError, first_few, first_line

Numbers = NDArray[np.float32]
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
MOST_CATEGORIES = 100
"""Different texts of a column from which on it is taken for free text, or for an id."""
LIKE_A_NUMBER = r"^\s*[-+]?[$€£]?\s?(\d{1,3}([,.' ]\d{3})+|\d+)([.,]\d+)?\s?[%$€£]?\s*$"
"""What a reader takes for a number: with separators of thousands, a decimal comma, a currency, or per cent."""
MOSTLY = 0.8
"""Share of a column's cells that look like numbers from which on it was probably meant to be one of numbers."""
SHOWN = 3
"""Most cells that a message shows."""


@dataclass(frozen=True)
class Encoding:
    """How a column becomes numbers.

    fill: the number for empty cells; None for categories, and where no cell may be empty. flagged: whether a further
    column marks empty cells. categories: the texts, each a column. width: numbers of a column of lists.
    """

    name: str
    fill: float | None = None
    flagged: bool = False
    categories: tuple[str, ...] = ()
    width: int = 1

    @property
    def names(self) -> list[str]:
        """What each of its numbers is called."""
        if self.fill is None:
            return [f"{self.name}={each}" for each in self.categories]
        own = [self.name] if self.width == 1 else [f"{self.name}[{k}]" for k in range(self.width)]
        return [*own, *([f"{self.name} is empty"] if self.flagged else [])]

    @property
    def numbers(self) -> int:
        """How many numbers of an example it has."""
        return len(self.categories) or self.width + self.flagged

    def shown(self, numbers: Sequence[float]) -> str:
        """Its name and value in an example, from its numbers there: `age=20`, `city=Rome`, `age is empty`."""
        if self.categories:
            known = [text for text, number in zip(self.categories, numbers, strict=True) if number]
            return f"{self.name}={known[0]}" if known and known[0] else f"{self.name} is {'empty' if known else 'new'}"
        if self.flagged and numbers[-1]:
            return f"{self.name} is empty"
        values = ", ".join(f"{number:.4g}" for number in numbers[: self.width])
        return f"{self.name}={values}" if self.width == 1 else f"{self.name}=[{values}]"


def read(
    uris: Mapping[str, str], roles: tables.Roles, notes: list[str]
) -> tuple[dict[str, tuple[Numbers, NamedLabels | NDArray[np.int64] | None]], list[Encoding]]:
    """Features [N, D] float32 and labels of each split, and how columns became features, in the order of these.

    Raises: `RequestError` with the file and the column.
    """
    files = {split: shards.files(uri, table_files.READERS) for split, uri in uris.items()}
    train = shards.table(files["train"])
    found = {split: train if split == "train" else shards.table(of, train.schema) for split, of in files.items()}
    notes += [note for split, of in files.items() if (note := headers.note(of[0], found[split])) is not None]
    names = feature_names(found["train"], roles)
    for split, table in found.items():
        wanted = [*names, *([roles.label] if split in LABELLED else [])]
        for name in wanted:
            if name not in table.column_names:
                fix = label_fix(name, table.column_names) if name == roles.label else "Set `data.feature_columns`."
                raise MissingColumn(
                    f"'{uris[split]}': no column '{name}'; found {', '.join(table.column_names)}. {fix}"
                )
    table_files.check_commas(uris["train"], train, [*names, roles.label])
    encodings = _encodings(train, names, uris["train"])
    if roles.features is None:
        notes += tables.left_out_index(_index(train, roles)) + tables.row_numbers(_plain_numbers(train, encodings))
    notes += _told(encodings)
    given = {split: table.column(roles.label) for split, table in found.items() if split in LABELLED}
    labels = labels_of(given, uris, roles.label)
    x = {split: encoded(table, encodings, uris[split]) for split, table in found.items()}
    return {split: (of_split, labels.get(split)) for split, of_split in x.items()}, encodings


def labels_of(
    columns: Mapping[str, pa.ChunkedArray], uris: Mapping[str, str], name: str
) -> dict[str, NamedLabels | NDArray[np.int64]]:
    """The labels of each split, class ids or names. columns: of labels, by split; they have this name.

    Raises: `RequestError` where one holds neither.
    """
    return label_names.ids_or_names({split: texts_of(column, uris[split], name) for split, column in columns.items()})


def _encodings(train: pa.Table, names: Sequence[str], uri: str) -> list[Encoding]:
    return [encoding(name, train.column(name), uri) for name in names]


def read_groups(uri: str, name: str) -> list[Any]:
    """The values of a column of any type; None for an empty cell."""
    table = shards.table(shards.files(uri, table_files.READERS))
    if name not in table.column_names:
        found = ", ".join(table.column_names)
        raise MissingColumn(f"'{uri}': no column '{name}'; found {found}. Set `data.group_column`.")
    column = table.column(name)
    with _reading(uri, name, column, "a value of Python in each row"):
        return cast(list[Any], column.to_pylist())


def feature_names(train: pa.Table, roles: tables.Roles) -> list[str]:
    """The feature columns in their order: those that are named, else all without a role."""
    if roles.features is not None:
        return list(roles.features)
    others = {roles.label, roles.groups, *_index(train, roles)}
    return [name for name in train.column_names if name not in others]


def _index(train: pa.Table, roles: tables.Roles) -> list[str]:
    """The columns of train that are an index and have no role."""
    found = tables.index_columns(train.schema) - {roles.label, roles.groups}
    return [name for name in train.column_names if name in found]


def _plain_numbers(train: pa.Table, encodings: Sequence[Encoding]) -> Iterator[tuple[str, Float64]]:
    """The columns of numbers by name, [N] each."""
    for each in encodings:
        column = plain(train.column(each.name))
        if is_number(column.type):
            yield each.name, _floats(column)


def encoding(name: str, column: pa.ChunkedArray, uri: str) -> Encoding:
    """How a column of train is encoded. Raises: `RequestError` where it holds neither numbers nor categories."""
    with _reading(uri, name, column, "numbers or categories; name the columns to use in `data.feature_columns`"):
        return _encoding(name, plain(column), uri)


def _encoding(name: str, column: pa.ChunkedArray, uri: str) -> Encoding:
    if is_text(column.type):
        texts = sorted({str(each) for each in pc.unique(pc.fill_null(column, "")).to_pylist()})
        if len(texts) > MOST_CATEGORIES:
            found = no_numbers(column) or f"has {len(texts):,} different texts"
            raise RequestError(
                f"'{uri}': column '{name}' {found}; expected at most {MOST_CATEGORIES} categories. Name the columns to "
                "use in `data.feature_columns`."
            )
        return Encoding(name, categories=tuple(texts))
    if is_list(column.type):
        return Encoding(name, 0.0, width=_lists(column, uri, name).shape[1])
    if not is_number(column.type):
        raise RequestError(
            f"'{uri}': column '{name}' is {column.type}; expected numbers or categories. Name the columns to use in "
            "`data.feature_columns`."
        )
    values = _floats(column)
    empty = np.isnan(values)
    _check_finite(np.where(empty, 0.0, values), uri, name)
    return Encoding(name, float(values[~empty].mean()) if not empty.all() else 0.0, bool(empty.any()))


def encoded(table: pa.Table, encodings: Sequence[Encoding], uri: str) -> Numbers:
    """The features [N, D] of a table."""
    columns = []
    for each in encodings:
        column = table.column(each.name)
        with _reading(uri, each.name, column, f"{'texts' if each.fill is None else 'numbers'}, as in train"):
            columns.append(_encoded(plain(column), each, uri))
    return np.concatenate([np.zeros((len(table), 0), np.float32), *columns], axis=1)


def _encoded(column: pa.ChunkedArray, how: Encoding, uri: str) -> Numbers:
    """One column as [N, D] float32."""
    if how.fill is None:
        if not (is_text(column.type) or pa.types.is_null(column.type)):
            raise RequestError(
                f"'{uri}': column '{how.name}' is {column.type}, such as {_first(column)!r}; expected texts, as in "
                "train. Write it as text in both, spelled alike."
            )
        places = pc.index_in(pc.fill_null(column.cast(pa.string()), ""), pa.array(how.categories, pa.string()))
        ids = pc.fill_null(places, -1).to_numpy()
        return cast(Numbers, (ids[:, None] == np.arange(len(how.categories))).astype(np.float32))
    if is_list(column.type) and not how.flagged:
        lists = _lists(column, uri, how.name)
        if lists.shape[1] != how.width:
            raise RequestError(
                f"'{uri}': column '{how.name}' has lists of {lists.shape[1]} numbers; expected {how.width} as in train."
            )
        return lists
    if how.width != 1:
        raise RequestError(
            f"'{uri}': column '{how.name}' is {column.type}; expected lists of {how.width} numbers, as in train."
        )
    if not is_number(column.type):
        raise RequestError(
            f"'{uri}': column '{how.name}' is {column.type}, such as {_first(column)!r}; expected numbers, as in train."
        )
    values = _floats(column)
    empty = np.isnan(values)
    filled = np.where(empty, how.fill, values)
    _check_finite(filled, uri, how.name)
    return np.column_stack([filled, *([empty] if how.flagged else [])]).astype(np.float32)


@contextmanager
def _reading(uri: str, name: str, column: pa.ChunkedArray, expected: str) -> Iterator[None]:
    """Turns what Arrow raises for the values of a column into a `RequestError`."""
    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise RequestError(
            f"'{uri}': column '{name}' is {column.type}, and its values cannot be read ({first_line(error)}). "
            f"Expected {expected}."
        ) from error


def no_numbers(column: pa.ChunkedArray) -> str:
    """Why a column of texts whose cells look like numbers is none of numbers; empty where few do."""
    texts = pc.drop_null(plain(column))
    texts = pc.filter(texts, pc.greater(pc.binary_length(texts), 0))
    plainly = pc.match_substring_regex(texts, NUMBER)
    alike = pc.or_(plainly, pc.match_substring_regex(texts, LIKE_A_NUMBER))
    if not len(texts) or pc.sum(alike).as_py() < MOSTLY * len(texts):
        return ""
    others = pc.filter(texts, pc.invert(plainly))
    if not len(others):
        return "has numbers that are written as texts (write them as numbers)"
    shown = ", ".join(map(repr, pc.unique(others).slice(0, SHOWN).to_pylist()))
    return (
        f"is text, since {len(others):,} of {len(texts):,} cells are no plain numbers, such as {shown} (write numbers "
        "as 12.5, and leave other cells empty)"
    )


def _first(column: pa.ChunkedArray) -> Any:
    """The first value of a column; of texts, the first that is no number."""
    known = pc.drop_null(column)
    if is_text(known.type):
        known = pc.filter(known, pc.invert(pc.match_substring_regex(known, NUMBER)))
    return known[0].as_py() if len(known) else None


def is_number(kind: pa.DataType) -> bool:
    of_numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(of_numbers or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _floats(column: pa.ChunkedArray) -> Float64:
    """A column of numbers [N]; NaN for empty cells."""
    column = pc.cast(column, pa.uint8()) if pa.types.is_boolean(column.type) else column
    return cast(Float64, pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False))


def _check_finite(values: Float64, uri: str, name: str, each: int = 1) -> None:
    """Raise `RequestError` where a column's values are not finite as float32. each: values of a row."""
    with np.errstate(over="ignore"):
        wrong = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
    if len(wrong):
        raise RequestError(
            f"'{uri}': column '{name}' has {len(wrong):,} values that are NaN or infinite as float32, the first in row "
            f"{wrong[0] // each}; expected finite numbers. Leave such cells empty, or name the columns to use in "
            "`data.feature_columns`."
        )


def _lists(column: pa.ChunkedArray, uri: str, name: str) -> Numbers:
    """A column of equally long lists of numbers as [N, D]."""
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    flat = pc.list_flatten(column)
    if len(lengths) != 1 or lengths[0] is None or not is_number(flat.type) or flat.null_count:
        raise RequestError(f"'{uri}': column '{name}' is {column.type}; expected lists of numbers of one length.")
    values = _floats(flat)
    _check_finite(values, uri, name, lengths[0])
    return values.astype(np.float32).reshape(len(column), lengths[0])


def texts_of(column: pa.ChunkedArray, uri: str, name: str) -> list[str | None]:
    """Labels as texts, whole numbers without a fraction; None for an empty cell. name: of their column.

    Raises: `RequestError` where they are numbers with a fraction, as of a regression, or infinite.
    """
    with _reading(uri, name, column, "class names or ids"):
        return _texts_of(plain(column), uri, name)


def _texts_of(column: pa.ChunkedArray, uri: str, name: str) -> list[str | None]:
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        values = _floats(column)
        known = values[~np.isnan(values)]
        wrong = known[(known != np.round(known)) | np.isinf(known)]
        if len(wrong):
            raise RequestError(
                f"'{uri}': the label '{name}' has numbers with a fraction, or infinite ones, such as {wrong[0]:g}. "
                "Stillhouse is for classification: expected class names or ids; put a quantity into classes first."
            )
        return [None if np.isnan(value) else str(int(value)) for value in values]
    if not (is_text(column.type) or is_number(column.type)):
        raise RequestError(f"'{uri}': the label '{name}' is {column.type}; expected class names or ids.")
    found = [None if each is None else str(each) for each in column.to_pylist()]
    return [None if each is None or not each.strip() else each for each in found]


def _told(encodings: Sequence[Encoding]) -> list[str]:
    """A note where columns and numbers are not the same."""
    several = [each for each in encodings if len(each.names) > 1 or each.fill is None]
    if not several:
        return []
    shown = first_few(several, tables.NAMED, lambda each: f"{each.name} ({len(each.names)})")
    total = sum(len(each.names) for each in encodings)
    return [
        f"data.train: {len(encodings)} columns are {total} numbers, since some are categories, lists, or have empty "
        f"cells: {shown}."
    ]
