"""The inputs of N examples: one dense column, or several named columns, dense or ragged.

`x[rows]` takes some of them, in any order. Code that handles each column uses `columns_of`, so that a single dense
column needs no name. `positions` are the elements of an example that get their own distribution.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data import arrays, ragged
from workers.data.arrays import Index, Joined, Rows
from workers.data.column import Column
from workers.data.positions import Positions
from workers.data.ragged import Ragged
from workers.data.texts import is_text
from workers.data.tokens import IDS, Tokenization
from workers.errors import RequestError

X = "x"
"""The name of a dense column without one."""
EMBEDDED = 256
"""Numbers for each character of a text: a token has about four, and a network some 1,000 numbers for it."""
OF_TOKEN = 1024
"""Numbers for each token."""
AnyColumn = Column | Ragged


@dataclass(frozen=True)
class Columns:
    """Named columns of N examples.

    positions: [N] rows of integers, ascending: the elements of an example that get their own distribution. None: one
    per example. elements_of: the column whose elements they are; by default the first ragged one.
    """

    columns: Mapping[str, AnyColumn]
    positions: Ragged | None = None
    elements_of: str = ""
    derived: Mapping[Tokenization, Mapping[str, Ragged]] = field(default_factory=dict)
    """Tokens of the texts that are known already, by tokenizer."""

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in self.columns.items()}
        if not sizes or len(set(sizes.values())) > 1:
            raise ValueError(f"columns of {sizes} examples; expected at least one column, and as many in each")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows: slice | Index) -> Columns:
        return self._with({name: column[rows] for name, column in self.columns.items()}, rows)

    def _with(self, columns: Mapping[str, AnyColumn], rows: slice | Index) -> Columns:
        """These columns, which hold some of the rows, with everything else for the same rows."""
        derived = {how: {name: c[rows] for name, c in of.items()} for how, of in self.derived.items()}
        positions = None if self.positions is None else self.positions[rows]
        return Columns(columns, positions, self.elements_of, derived)

    @property
    def single(self) -> Column | None:
        """The dense column, if it is the only one and each example is one position; else None."""
        column = next(iter(self.columns.values()))
        one = len(self.columns) == 1 and self.positions is None and not isinstance(column, Ragged)
        return column if one else None  # type: ignore[return-value]

    def with_more(self, others: Sequence[Columns]) -> Columns:
        """These examples, followed by others that have the same columns."""
        several = [self, *others]
        columns = {name: _joined([part.columns[name] for part in several]) for name in self.columns}
        where = [part.positions for part in several if part.positions is not None]
        derived = {
            how: {name: ragged.joined([part.derived[how][name] for part in several]) for name in of}
            for how, of in self.derived.items()
            if all(how in part.derived for part in several)
        }
        return Columns(columns, ragged.joined(where) if where else None, self.elements_of, derived)

    def digest(self) -> str:
        """sha256 over every value; independent of the source of the data."""
        return digest_of({name: digest_column(c) for name, c in self.columns.items()}, self.positions)

    def chosen(self, names: Sequence[str]) -> Columns:
        """Some of the columns."""
        left_out = {name for name, c in self.columns.items() if isinstance(c, Ragged) and is_text(name, c)} - {*names}
        derived = {} if left_out else self.derived  # which are of all texts together
        return replace(self, columns={name: self.columns[name] for name in names}, derived=derived)


Examples = Column | Columns


def columns_of(x: Examples) -> Mapping[str, AnyColumn]:
    """The columns by name; a dense column without a name is called `X`."""
    return x.columns if isinstance(x, Columns) else {X: x}


def arrays_of(x: Examples) -> list[NDArray[Any]]:
    """The arrays that hold the columns in memory. Mapped files and lazy columns of a factory have none."""
    found: list[NDArray[Any]] = []
    left: list[AnyColumn] = [*columns_of(x).values()]
    while left:
        match left.pop():
            case Ragged(arrays=several):
                left += several
            case Joined(parts=parts):
                left += parts
            case Rows(of=of):
                left.append(of)
            case np.ndarray() as array if not isinstance(array, np.memmap):
                found.append(array)
    return found


def explicit_positions(x: Examples) -> Ragged | None:
    """The elements of each example that get their own distribution; None where the example as a whole gets one."""
    return x.positions if isinstance(x, Columns) else None


def check_not_empty(inputs: Mapping[str, Examples]) -> None:
    """Raise `RequestError` where a split has no examples. A scalar, which has no length, is refused with its labels."""
    sizes = {name: (len(x),) if isinstance(x, Columns) else x.shape[:1] for name, x in inputs.items()}
    if empty := [name for name, size in sizes.items() if size == (0,)]:
        raise RequestError(f"data.{empty[0]}: no examples. Expected at least one; check how the split was made.")


def positions_of(x: Examples, examples: int) -> Positions:
    """The number of target rows of each example. examples: their number in one view of `x`."""
    where = explicit_positions(x)
    return Positions(examples, None if where is None else where.lengths)


def values_of(x: Examples) -> int:
    """Numbers per example; for ragged columns the mean, rounded up."""
    return sum(
        math.ceil(column.lengths.mean() * math.prod(column.of_value)) if isinstance(column, Ragged)
        else math.prod(column.shape[1:])
        for column in columns_of(x).values()
    )  # fmt: skip


def lengths_of(x: Examples, tokens: Tokenization | None = None) -> Index | None:
    """The length [N] of each example, by which batches are grouped; None where no padding depends on it.

    tokens: those that count, where they are known; else the elements of the first ragged column do. All versions of an
    example have the length of the example, since they are made later.
    """
    if not isinstance(x, Columns):
        return None
    known: Mapping[str, Ragged] = {} if tokens is None else x.derived.get(tokens, {})
    ragged_ones = [column for column in (*known.values(), *x.columns.values()) if isinstance(column, Ragged)]
    return ragged_ones[0].lengths if ragged_ones else None


def by_length(x: Examples, ids: Index, tokens: Tokenization | None = None) -> Index | None:
    """The order in which the examples `ids` ascend in length, as of `lengths_of`; None where lengths do not matter."""
    lengths = lengths_of(x, tokens)
    return None if lengths is None else np.argsort(lengths[ids % len(lengths)], kind="stable")


def embedded(x: Examples) -> int:
    """About how many numbers a model makes of each value at its input: many of a text or a token, else one."""
    if IDS in columns_of(x) and isinstance(columns_of(x)[IDS], Ragged):
        return OF_TOKEN
    return EMBEDDED if has_texts(x) else 1


def has_texts(x: Examples) -> bool:
    """Whether a column holds texts."""
    return any(isinstance(column, Ragged) and is_text(name, column) for name, column in columns_of(x).items())


def described(x: Examples) -> str:
    """Types and shapes in words, such as `float32 [8]`, or `tokens int32 [ragged], image uint8 [28, 28]`."""
    found = {name: f"{column.dtype} {shape_of(column)}" for name, column in columns_of(x).items()}
    return found[X] if not isinstance(x, Columns) else ", ".join(f"{name} {text}" for name, text in found.items())


def shape_of(column: AnyColumn) -> str:
    """The shape of one example, such as `[28, 28]` or `[ragged, 40]`."""
    sizes = ("ragged", *column.of_value) if isinstance(column, Ragged) else column.shape[1:]
    return f"[{', '.join(map(str, sizes))}]"


def take(x: Examples, rows: Index) -> Examples:
    """Some of the examples: a copy for plain arrays in memory, a lazy view for other columns."""
    if isinstance(x, Columns):
        taken = {name: c[rows] if isinstance(c, Ragged) else _taken(c, rows) for name, c in x.columns.items()}
        return x._with(taken, rows)
    return _taken(x, rows)


def _taken(column: Column, rows: Index) -> Column:
    return column[rows] if type(column) is np.ndarray else Rows(column, rows)


def joined(parts: Sequence[Examples]) -> Examples:
    """Concatenate examples that have the same columns. Raises: ValueError for others."""
    first = parts[0]
    if any(not same_columns(part, first) for part in parts):
        raise ValueError(f"examples of {' and '.join(map(described, parts))}; expected the same columns")
    if len(parts) == 1:
        return first
    if not isinstance(first, Columns):
        return Joined(tuple(parts))  # type: ignore[arg-type]
    return first.with_more(parts[1:])  # type: ignore[arg-type]


def _joined(parts: Sequence[AnyColumn]) -> AnyColumn:
    if isinstance(parts[0], Ragged):
        return ragged.joined(parts)  # type: ignore[arg-type]
    return Joined(tuple(parts))  # type: ignore[arg-type]


def digest(x: Examples) -> str:
    """sha256 over every value; independent of the source of the data."""
    return x.digest() if isinstance(x, Columns) else arrays.digest(x)


def digest_of(columns: Mapping[str, str], positions: Ragged | None) -> str:
    """The digest of named columns, from the digests of the columns."""
    found = hashlib.sha256()
    for name in sorted(columns):
        found.update(f"{name} {columns[name]} ".encode())
    if positions is not None:
        found.update(digest_column(positions).encode())
    return found.hexdigest()


def digest_column(column: AnyColumn) -> str:
    """sha256 over the values of a column, and of a ragged one over its lengths."""
    if not isinstance(column, Ragged):
        return arrays.digest(column)
    found = arrays.begin_digest((len(column), -1, *column.of_value), column.dtype)
    found.update(np.ascontiguousarray(column.lengths).data)
    for _, block in column.blocks(arrays.BYTES_AT_ONCE):
        found.update(np.ascontiguousarray(block.flat).data)
    return found.hexdigest()


def same_columns(x: Examples, other: Examples) -> bool:
    """Whether an example of one has the columns and shapes of an example of the other."""
    if isinstance(x, Columns) != isinstance(other, Columns):
        return False
    return {n: shape_of(c) for n, c in columns_of(x).items()} == {n: shape_of(c) for n, c in columns_of(other).items()}
