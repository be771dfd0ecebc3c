"""Builds a model's input batch from examples: rows in torch's memory, padded where they differ in length.

A dense column becomes a tensor, by one copy and with the same bits in every batch. Several columns, or a ragged
one, become `NamedInputs`. Both have the same interface for cutting, moving and counting, so that training, teachers and
evaluation need not distinguish them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.data import arrays
from workers.data.arrays import Index, Room
from workers.data.column import Column
from workers.data.examples import AnyColumn, Columns, Examples
from workers.data.examples import described as described_examples
from workers.data.ragged import Ragged, stretches
from workers.data.texts import PAIR, TEXT
from workers.data.tokens import TYPES, Tokenization
from workers.errors import RequestError

MASK = "attention_mask"
"""Name of the model's argument that marks the real elements of padded rows."""


@dataclass(frozen=True)
class Strip:
    """Rows of a ragged column, concatenated: values [sum of lengths, ...]."""

    values: Tensor
    lengths: Index

    def cut(self, start: int, stop: int) -> Strip:
        begin, end = (int(self.lengths[:row].sum()) for row in (start, stop))
        return Strip(self.values[begin:end], self.lengths[start:stop])

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=1))

    def like(self, values: Tensor) -> Strip:
        return Strip(values, self.lengths)


@dataclass(frozen=True)
class NamedInputs:
    """A batch of B examples: each column by its name, [B, ...] dense or a `Strip`.

    positions: the elements of each example that get their own distribution; None: one per example. elements_of: the
    column that they are elements of.
    """

    columns: Mapping[str, Tensor | Strip]
    positions: Ragged | None = None
    elements_of: str = ""
    padding: Mapping[str, int] = field(default_factory=dict)
    """The value that pads a ragged column; 0 for those that are not listed."""

    def __len__(self) -> int:
        first = next(iter(self.columns.values()))
        return len(first.lengths) if isinstance(first, Strip) else len(first)

    def __getitem__(self, rows: slice) -> NamedInputs:
        """Some of the examples; views."""
        start, stop, _ = rows.indices(len(self))
        cut = {n: c.cut(start, stop) if isinstance(c, Strip) else c[start:stop] for n, c in self.columns.items()}
        return replace(self, columns=cut, positions=None if self.positions is None else self.positions[start:stop])

    def split(self, sizes: int | Sequence[int]) -> list[NamedInputs]:
        """All examples as views, cut into pieces of these sizes."""
        edges = [*range(0, len(self), sizes), len(self)] if isinstance(sizes, int) else [0, *np.cumsum(sizes).tolist()]
        return [self[start:stop] for start, stop in pairwise(edges)]

    @property
    def device(self) -> torch.device:
        return next(iter(self._tensors())).device

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> NamedInputs:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> NamedInputs:
        return self._each(Tensor.pin_memory)

    def widened(self) -> NamedInputs:
        """Converted to the models' types, float32 or int64."""
        return self._each(arrays.widened)

    def _tensors(self) -> Iterator[Tensor]:
        for column in self.columns.values():
            yield column.values if isinstance(column, Strip) else column

    def _each(self, change: Any) -> NamedInputs:
        changed = {
            name: column.like(change(column.values)) if isinstance(column, Strip) else change(column)
            for name, column in self.columns.items()
        }
        return replace(self, columns=changed)

    @property
    def single(self) -> Tensor | None:
        """The dense column, if it is the only one; else None."""
        column = next(iter(self.columns.values()))
        return column if len(self.columns) == 1 and isinstance(column, Tensor) else None

    @property
    def masks(self) -> dict[str, str]:
        """The name of the mask of each ragged column that has one: not those of which the data have it, nor the types
        of tokens, which have the mask of the tokens."""
        ragged = [name for name, column in self.columns.items() if isinstance(column, Strip)]
        named = {name: f"{name}_mask" if k else MASK for k, name in enumerate(ragged)}
        return {name: mask for name, mask in named.items() if mask not in self.columns and name != TYPES}

    def padded(self) -> dict[str, Tensor]:
        """The arguments of a model: dense columns [B, ...], ragged ones padded to [B, L, ...], L the longest here.

        Beside the first ragged column stands `attention_mask` [B, L] int64, 1 for real elements and 0 for padding;
        beside each further one `<name>_mask`. A column of the data with that name replaces the mask.
        """
        found: dict[str, Tensor] = {}
        masks = self.masks
        for name, column in self.columns.items():
            if not isinstance(column, Strip):
                found[name] = column
                continue
            longest, count = column.longest, len(column.lengths)
            at = stretches(np.arange(count) * longest, column.lengths)
            where = torch.from_numpy(at).to(self.device, non_blocking=True)  # a mask synchronises the GPU
            rows = column.values.new_full((count * longest, *column.values.shape[1:]), self.padding.get(name, 0))
            found[name] = rows.index_copy_(0, where, column.values).unflatten(0, (count, longest))
            if name in masks:
                mask = torch.zeros(count * longest, dtype=torch.int64, device=self.device)
                found[masks[name]] = mask.index_fill_(0, where, 1).unflatten(0, (count, longest))
        return found

    @property
    def longest(self) -> int:
        """Number of elements of a padded example, in the column that positions are elements of."""
        column = self.columns[self.elements_of]
        return column.longest if isinstance(column, Strip) else column.shape[1]

    def at_positions(self, answers: Tensor) -> Tensor:
        """The rows [P, K] of the positions in a model's output for padded rows, [B, L, K].

        Returns [B, K] unchanged where each example is one position. Raises: `RequestError` for another shape.
        """
        if self.positions is None:
            return answers
        longest = self.longest
        if answers.ndim != 3 or answers.shape[:2] != (len(self), longest):
            raise RequestError(
                f"the model returned {list(answers.shape)} for {len(self)} examples padded to {longest}; expected "
                f"logits [{len(self)}, {longest}, classes], one row for each element."
            )
        return answers.flatten(0, 1)[self.places().to(answers.device, non_blocking=True)]

    def places(self) -> Tensor:
        """The places of the positions among all B * L padded elements: [P] int64 in main memory."""
        assert self.positions is not None
        rows = np.repeat(np.arange(len(self)), self.positions.lengths)
        return torch.from_numpy(rows * self.longest + self.positions.flat)


Inputs = Tensor | NamedInputs
"""A model's input batch of B examples: a tensor [B, ...] for one dense column, else `NamedInputs`."""


def rows_of(x: Inputs) -> int:
    """Number of rows in a model's output for the batch: one per position."""
    if isinstance(x, Tensor) or x.positions is None:
        return len(x)
    return int(x.positions.lengths.sum())


def rows_between(x: Inputs, start: int, stop: int) -> slice:
    """The output rows of the examples `start` to `stop`."""
    if isinstance(x, Tensor) or x.positions is None:
        return slice(start, stop)
    return slice(int(x.positions.lengths[:start].sum()), int(x.positions.lengths[:stop].sum()))


def split_rows(x: Inputs, sizes: int) -> list[int]:
    """Number of output rows for each piece of `x.split(sizes)`."""
    return [rows_of(piece) for piece in x.split(sizes)]


def widened(x: Inputs) -> Inputs:
    """Convert a batch from `collate` to float32 or int64, on its device."""
    return arrays.widened(x) if isinstance(x, Tensor) else x.widened()


def described(x: Inputs) -> str:
    """Types and shapes in words, for messages."""
    if isinstance(x, Tensor):
        return f"{x.dtype} {list(x.shape)}"
    return ", ".join(f"{name} {_described(column)}" for name, column in x.columns.items())


def _described(column: Tensor | Strip) -> str:
    if isinstance(column, Tensor):
        return f"{column.dtype} {list(column.shape)}"
    return f"{column.values.dtype} {[len(column.lengths), column.longest, *column.values.shape[1:]]}"


def shortest(x: Inputs) -> int:
    """Index of the example with the most padding; 0 for a batch without padding."""
    strips = [] if isinstance(x, Tensor) else [c.lengths for c in x.columns.values() if isinstance(c, Strip)]
    return int(strips[0].argmin()) if strips else 0


@dataclass(frozen=True)
class Collator:
    """Builds a batch from rows of examples. columns: those that the model takes; None: all.

    One dense column becomes its tensor. Equal collators build equal batches.
    """

    columns: tuple[str, ...] | None = None
    tokens: Tokenization | None = None
    """Turns texts into tokens, which take the place of the texts. None: the model takes the columns as they are."""

    def __call__(self, x: Examples, rows: Index, room: Room | None = None, *, narrow: bool = False) -> Inputs:
        """The examples `rows` [B] int64 of `x`.

        room: memory for the batch, which the next batch overwrites. narrow: keep the data's narrower types, for
        `widened` on the device. Raises: IndexError for rows that do not exist.
        """
        found = self.chosen(x)
        if self.tokens is not None:
            return self._tokenized(found[rows] if isinstance(found, Columns) else found, self.tokens, narrow)
        single = found.single if isinstance(found, Columns) else found
        if single is not None:
            return arrays.gather(single, rows, room, narrow=narrow)
        taken = found[rows]
        assert isinstance(taken, Columns)
        if taken.single is not None:
            return arrays.as_tensor(taken.single[:], room, narrow=narrow)
        columns = {name: _tensor(column, narrow) for name, column in taken.columns.items()}
        return NamedInputs(columns, taken.positions, taken.elements_of)

    def _tokenized(self, x: Examples, tokens: Tokenization, narrow: bool) -> NamedInputs:
        """A batch with tokens instead of texts; the other columns follow them."""
        if not isinstance(x, Columns) or TEXT not in x.columns:
            raise RequestError(
                f"`tokenizer` is '{tokens.uri}', and the data have {described_examples(x)}. Expected texts: "
                "`data.kind: text`, or a column 'text' of UTF-8 bytes from a reader of your own."
            )
        pairs = x.columns.get(PAIR)
        made = x.derived.get(tokens) or tokens(x.columns[TEXT], pairs)  # type: ignore[arg-type]
        others = {name: column for name, column in x.columns.items() if name not in (TEXT, PAIR)}
        columns = {name: _tensor(column, narrow) for name, column in {**made, **others}.items()}
        return NamedInputs(columns, x.positions, x.elements_of, tokens.padding)

    def single(self, x: Examples) -> Column | None:
        """The one dense column that the model takes; None where it takes others."""
        if self.tokens is not None:
            return None
        found = self.chosen(x)
        return found.single if isinstance(found, Columns) else found

    def chosen(self, x: Examples) -> Examples:
        """The examples with only the columns of the model. Raises: `RequestError` where one does not exist."""
        if self.columns is None:
            return x
        known = list(x.columns) if isinstance(x, Columns) else []
        missing = [name for name in self.columns if name not in known]
        if missing or not isinstance(x, Columns):
            raise RequestError(
                f"`inputs` names the column '{(missing or list(self.columns))[0]}', and the data have "
                f"{', '.join(known) or 'one column without a name'}. Expected columns that the data have."
            )
        if x.positions is not None and x.elements_of not in self.columns:
            raise RequestError(
                f"`inputs` is {list(self.columns)}, and the elements of '{x.elements_of}' have labels of their own. "
                "Expected that column, too."
            )
        return x.chosen(self.columns)


def _tensor(column: AnyColumn, narrow: bool) -> Tensor | Strip:
    if isinstance(column, Ragged):
        return Strip(arrays.as_tensor(column.flat, narrow=narrow), column.lengths)
    return arrays.as_tensor(column[:], narrow=narrow)


collate = Collator()
"""The default collator, with all columns."""
