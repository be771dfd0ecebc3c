"""Cacheable augmentation: the random numbers of an example depend only on (example, view, seed).

A soft target is valid only for the exact input that the teacher saw. So each example has `views` fixed versions.
The teachers label every version, and epoch e of the student uses version e modulo `views`. A version is the same on
every machine and in every batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers import storage
from workers.data import texts
from workers.data.arrays import Index, kind_of, spread
from workers.data.column import Column
from workers.data.examples import AnyColumn, Columns, Examples, columns_of, described, same_columns
from workers.data.ragged import Ragged
from workers.errors import RequestError, naming
from workers.hashing import GOLDEN, mixed
from workers.specs.data import AugmentSpec
from workers.user_code import calls, factories

Rows = NDArray[Any]
TRIED = 8
"""Examples on which an augmentation is tried."""


@dataclass
class Draws:
    """Random numbers for some rows, independent of the other rows in the batch. Every call draws new ones.

    keys: [B] uint64, one for each row.
    """

    keys: NDArray[np.uint64]
    _drawn: int = 0

    def uniform(self, low: float = 0.0, high: float = 1.0, size: int = 1) -> NDArray[np.float32]:
        """[B, size] float32, uniform in [low, high)."""
        counters = np.arange(self._drawn, self._drawn + size, dtype=np.uint64) + np.uint64(1)
        self._drawn += size
        bits = mixed(self.keys[:, None] + counters * GOLDEN) >> np.uint64(40)
        drawn: NDArray[np.float32] = (low + (high - low) * (bits * 2.0**-24)).astype(np.float32)
        return drawn

    def of_each(self, sizes: Iterable[int]) -> Iterator[NDArray[np.float32]]:
        """For each row so many numbers [size] float32, uniform in [0, 1): those that `uniform` draws for the row.

        sizes: one for each row. They are the last draws, since other rows may have other numbers of them.
        """
        for row, size in enumerate(sizes):
            yield Draws(self.keys[row : row + 1], self._drawn).uniform(size=size)[0]

    def integers(self, low: int, high: int, size: int = 1) -> NDArray[np.int64]:
        """[B, size] int64, uniform in [low, high)."""
        return low + np.minimum(self.uniform(0, high - low, size).astype(np.int64), high - low - 1)

    def normal(self, size: int = 1) -> NDArray[np.float32]:
        """[B, size] float32 of the standard normal distribution (Box and Muller 1958)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(size=size)))
        drawn: NDArray[np.float32] = (radius * np.cos(2.0 * np.pi * self.uniform(size=size))).astype(np.float32)
        return drawn


Transform = Callable[..., Any]
"""`transform(x [B, ...], draws, **kwargs) -> [B, ...]`, where each row depends only on its own row and draws. For
several columns, x and the result are dicts by name, of arrays and `Ragged` rows."""


READERS = "stillhouse_readers"
"""Attribute of a transform: how its arguments that name files are read."""


def reads(**readers: Callable[[str], Any]) -> Callable[[Transform], Transform]:
    """A decorator of a transform whose arguments by these names are files, each read once by `reader(uri)`.

    Paths are relative to the configuration file. What was read travels with the examples, so that no other machine
    needs the file, and what is reused changes with its content.
    """

    def decorated(transform: Transform) -> Transform:
        setattr(transform, READERS, readers)
        return transform

    return decorated


def named_files(spec: AugmentSpec) -> dict[str, str]:
    """The files that arguments of the transform name, as absolute paths or URIs by the names of the arguments.

    Raises: `RequestError` where such an argument is no text, or the transform is missing.
    """
    names = getattr(factories.load(spec.factory, spec.folder), READERS, {})
    found = {name: spec.kwargs[name] for name in names if spec.kwargs.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, str):
            raise RequestError(f"data.augment.kwargs.{name}: found {value!r}; expected the path or URI of a file.")
    return {name: storage.absolute(value, spec.folder) for name, value in found.items()}


def made(by: Augmented | AugmentedColumns, x: Any, ids: Index) -> Any:
    """Apply the transform to the examples' rows x; the results are the rows `ids` [B] of the augmented data."""
    assert by.transform is not None
    draws = Draws(mixed(ids.astype(np.uint64) + mixed(np.array(by.seed, np.uint64) + GOLDEN)))
    return by.transform(x, draws, **by.kwargs)


@dataclass(frozen=True)
class Augmented:
    """`views` versions of one dense column: row v * N + i is version v of example i."""

    of: Column
    transform: Transform
    kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    views: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.of.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.of.dtype

    def __len__(self) -> int:
        return self.views * len(self.of)

    def __getitem__(self, rows: Any, /) -> Rows:
        ids: Index = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        found: Rows = made(self, self.of[ids % len(self.of)], ids)
        return found


@dataclass(frozen=True)
class AugmentedColumns(Columns):
    """`views` versions of named columns. Shapes and dtypes are those of the original columns."""

    transform: Transform | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    views: int = 1
    only: tuple[str, ...] | None = None
    """The columns to take from the transform's result; None: all."""

    def __len__(self) -> int:
        return self.views * super().__len__()

    def __getitem__(self, rows: slice | Index) -> Columns:
        ids: Index = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        of = Columns(self.columns, self.positions, self.elements_of)[ids % (len(self) // self.views)]
        found = Columns(_columns(made(self, _writable(of), ids)), of.positions, of.elements_of)
        return found if self.only is None else found.chosen(self.only)

    @property
    def single(self) -> None:
        """None, since the column is not made yet."""

    def chosen(self, names: Sequence[str]) -> Columns:
        return replace(self, only=tuple(names))


def _writable(x: Columns) -> dict[str, Any]:
    """The columns for a transform, which may write to them; consecutive ragged rows would be a view of the data.

    Texts are a list of strings.
    """
    return {name: _handed(name, column) for name, column in x.columns.items()}


def _handed(name: str, column: AnyColumn) -> Any:
    if not isinstance(column, Ragged):
        return column
    return texts.strings(column) if texts.is_text(name, column) else Ragged.packed(column.flat.copy(), column.lengths)


def _columns(returned: Any) -> dict[str, Any]:
    """What a transform returned: columns by their names, of which lists of rows become ragged."""
    if not isinstance(returned, Mapping):
        raise TypeError(f"it returned {type(returned).__name__}; expected a dict of the columns that it was given")
    return {name: _ragged(c) if isinstance(c, list) else c for name, c in returned.items()}


def _ragged(rows: list[Any]) -> Ragged:
    return texts.of_strings(rows) if rows and isinstance(rows[0], str) else Ragged.of(rows)


def augmented(
    spec: AugmentSpec | None, of: Examples, seed: int, views: int, contents: Mapping[str, Any] | None = None
) -> Examples:
    """The examples in `views` versions by `spec`; unchanged if it is None.

    contents: from `read`, of the files that arguments of the transform name; None: they are read here.

    Raises: `RequestError` where the transform is missing, raises, or mixes rows.
    """
    if spec is None:
        return of
    contents = read(spec) if contents is None else contents
    kwargs = {**copy.deepcopy(spec.kwargs), **contents}  # a transform may change its arguments
    how = (factories.load(spec.factory, spec.folder), kwargs, seed, views)
    found: Augmented | AugmentedColumns
    found = (
        AugmentedColumns(of.columns, of.positions, of.elements_of, {}, *how)
        if isinstance(of, Columns)
        else Augmented(of, *how)
    )
    _check(spec, found, of)
    return found


def read(spec: AugmentSpec | None) -> dict[str, Any]:
    """What the files hold that arguments of the transform name, by the names of the arguments.

    Raises: `RequestError` where a file is not there, or is none of its kind.
    """
    if spec is None:
        return {}
    readers, found = getattr(factories.load(spec.factory, spec.folder), READERS, {}), {}
    for name, place in named_files(spec).items():
        key = f"data.augment.kwargs.{name}"
        with calls.checked(f"{key}: reading '{place}' raised"), naming(key):
            found[name] = readers[name](place)
    return found


def _check(spec: AugmentSpec, found: Augmented | AugmentedColumns, of: Examples) -> None:
    rows = _unlike(of)
    arguments = spec.kwargs or "no further arguments"
    called = f". It was called with x of {described(of[rows])}, {len(rows)} rows, draws, and {arguments}."
    with calls.checked(f"data.augment '{spec.factory}' raised", called):
        together = found[rows]
        alone = [found[rows[k : k + 1]] for k in range(len(rows))]
        problem = _other_shape(together, of[rows]) or _other_values(together, of[rows])
    if problem is not None:
        raise RequestError(f"data.augment '{spec.factory}' returned {problem}.")
    if _values(together) != [value for each in alone for value in _values(each)]:
        raise RequestError(
            f"data.augment '{spec.factory}' makes something else of an example when others are beside it. Expected "
            "each row to follow from itself and from `draws` alone: teachers and student cut their batches differently."
        )


def _unlike(of: Examples) -> Index:
    """Some examples, the shortest and the longest among them."""
    lengths = [column.lengths for column in columns_of(of).values() if isinstance(column, Ragged)]
    ends = [place for each in lengths for place in (each.argmin(), each.argmax())]
    return np.unique(np.concatenate([spread(len(of), TRIED), np.array(ends, np.int64)]))


def _other_shape(made: Any, given: Any) -> str | None:
    """Describe a changed shape and the expected one; None where the transform kept the shape."""
    if not isinstance(given, Columns):
        shape = getattr(made, "shape", None)
        if shape == given.shape:
            return None
        found = type(made).__name__ if shape is None else shape
        return f"{found}; expected an array of the shape that it was given, {given.shape}"
    if not isinstance(made, Columns) or not same_columns(made, given):
        return f"{described(made)}; expected the columns that it was given, {described(given)}"
    if given.positions is not None:
        for name, column in made.columns.items():
            before = given.columns[name]
            if not (isinstance(column, Ragged) and isinstance(before, Ragged)):
                continue
            if not np.array_equal(column.lengths, before.lengths):
                return f"rows of other lengths in '{name}'; expected the same, since elements have labels of their own"
    return None


def _other_values(made: Examples, given: Examples) -> str | None:
    """Describe values that a model would get in another type or scale, and the expected ones; None without any."""
    for name, column in columns_of(made).items():
        before = columns_of(given)[name]
        if isinstance(before, Ragged) and texts.is_text(name, before):
            continue
        found, was = _flat(column), _flat(before)
        kind = kind_of(was.dtype)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub" or kind_of(found.dtype) != kind:
            what, wanted = getattr(found, "dtype", type(found)), str(kind).removeprefix("torch.")
            return (
                f"{type(found).__name__} of {what} in '{name}', of {was.dtype}; expected an array of numpy that models "
                f"get as {wanted}, as they get the examples elsewhere. Convert it, by `.astype(numpy.{wanted})`"
            )
        if not found.size:
            continue
        if np.isfinite(was).all() and not np.isfinite(found).all():
            return f"values in '{name}' that are not finite; expected numbers"
        if _is_of_bytes(was) and found.min() >= 0 and 0 < found.max() <= 1:
            return (
                f"values from {found.min():g} to {found.max():g} in '{name}', of values from {was.min():g} to "
                f"{was.max():g}; expected the same scale, since members and test have the examples as they are"
            )
    return None


def _flat(column: AnyColumn) -> Any:
    """The values of a column's rows; a transform of one column may have returned anything with a shape."""
    return column.flat if isinstance(column, Ragged) else column


def _is_of_bytes(values: Rows) -> bool:
    """Whether these look like pixels from 0 to 255."""
    return kind_of(values.dtype) == torch.float32 and bool(values.min() >= 0 and 100 <= values.max() <= 255)


def _values(x: Examples) -> list[bytes]:
    """The values of each example."""
    columns = columns_of(x).values()
    return [
        b"".join((c[k : k + 1].flat if isinstance(c, Ragged) else np.asarray(c[k : k + 1])).tobytes() for c in columns)
        for k in range(len(x))
    ]
