"""Masked texts as examples: columns of tokens, whose masks are drawn for the rows that are asked for.

So memory holds no masked tokens, positions or labels but those of a batch, however many texts and copies there are. A
run tokenizes all texts once it has machines. Until then a sample is tokenized, whose tokens stand for those of the
texts between; so checks and plans know the number of examples exactly, and of tokens and positions about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.data import examples, masking, ragged
from workers.data.arrays import Index, spread
from workers.data.examples import AnyColumn, Columns, Examples
from workers.data.labels import LABELLED, MEASURED, UNLABELLED
from workers.data.masking import BLOCK_BYTES, Drawn, Masking, Vocabulary
from workers.data.ragged import Ragged, contiguous
from workers.data.tokens import IDS, Tokenization
from workers.hashing import Hashes
from workers.specs.data import DataSpec

SAMPLE, SAMPLE_BYTES = 4096, 2**23
"""Most texts at even distances that are tokenized before a run has machines, and about their most bytes."""
ENDS = 1024
"""How many of the shortest and of the longest texts are tokenized then, too."""


@dataclass(frozen=True)
class Masks(Ragged):
    """The positions of N masked examples. They are drawn where `flat` asks for them, the same ones each time.

    arrays, starts: empty. lengths: [N] positions of each example. tokens: of each example, without masks. keys: [N] by
    which they are masked.
    """

    tokens: Ragged
    keys: Hashes
    how: Masking

    @classmethod
    def over(cls, tokens: Ragged, keys: Hashes, how: Masking, positions: Index) -> Masks:
        """positions: [N] how many each example has."""
        return cls((np.zeros(0, np.int64),), np.zeros(0, np.int64), positions, tokens, keys, how)

    def drawn(self) -> Drawn:
        """The masked tokens of all examples, their positions and labels."""
        blocks = [
            masking.drawn(block, self.keys[first : first + len(block)], self.how)
            for first, block in self.tokens.blocks(BLOCK_BYTES)
        ]
        return Drawn(*map(contiguous, zip(*blocks or [masking.drawn(self.tokens, self.keys, self.how)], strict=True)))

    @property
    def flat(self) -> NDArray[Any]:
        return self.drawn().positions.flat

    def __getitem__(self, rows: slice | Index) -> Masks:
        return replace(self, lengths=self.lengths[rows], tokens=self.tokens[rows], keys=self.keys[rows])

    def weighted_by(self, source: str) -> Masks:
        """The same by the tokens of the texts with this digest."""
        return replace(self, how=replace(self.how, counted=source))

    def __reduce__(self) -> tuple[Any, ...]:
        return Masks, (self.arrays, self.starts, self.lengths, self.tokens, self.keys, self.how)


class Texts(NamedTuple):
    """T texts, in one or two columns, and `of` [N]: the text of each example. rows: [T] of these texts in the file;
    None: all."""

    columns: Columns
    of: Index
    rows: Index | None = None


@dataclass(frozen=True, kw_only=True)
class MaskedColumns(Columns):
    """N masked examples: `columns` has their tokens without masks, and `x[rows]` is some of them with masks.

    known: [N] whether the tokens that are masked are labels. source: digest of the file's texts. texts: those that are
    still to be tokenized, in whose place are tokens of a sample; None: the tokens are their own.
    """

    known: NDArray[np.bool_]
    source: str
    texts: Texts | None

    @property
    def masks(self) -> Masks:
        assert isinstance(self.positions, Masks)
        return self.positions

    def __getitem__(self, rows: slice | Index) -> Columns:
        return self.drawn(rows)[0]

    def drawn(self, rows: slice | Index) -> tuple[Columns, Index]:
        """Some examples with masks, and the labels of their positions, one example after another; -1 for none."""
        known, masks = self.known[rows], self.masks[rows]
        made = masks.drawn()
        labels: Index = made.labels.flat
        if not known.all():
            labels = np.where(np.repeat(known, masks.lengths), labels, UNLABELLED)
        return Columns({IDS: made.tokens}, made.positions, IDS), labels

    def labels(self, rows: Index) -> Index:
        """The labels of the examples' positions, one example after another; -1 for none."""
        if self.known[rows].any():
            return self.drawn(rows)[1]
        return np.full(int(self.masks.lengths[rows].sum()), UNLABELLED, np.int64)

    def labelled(self, rows: Index) -> Index:
        """How many labels each of the examples has: [n] int64. It draws no masks."""
        how, lengths = self.masks.how, self.masks.lengths[rows]
        return np.where(self.known[rows], lengths if how.positions == "masked" else how.masked(lengths), 0)

    def of_each_text(self) -> Index:
        """How many tokens each text has that examples are copies of: [T] int64. Before all are tokenized, texts of the
        sample stand for others."""
        tokens = self.masks.tokens
        of = tokens.starts if self.texts is None else self.texts.of
        found: Index = tokens.lengths[np.unique(of, return_index=True)[1]]
        return found

    @property
    def is_sampled(self) -> bool:
        """Whether texts of the sample stand for others."""
        return self.texts is not None and len(np.unique(self.masks.tokens.starts)) < len(np.unique(self.texts.of))

    def _with(self, columns: Mapping[str, AnyColumn], rows: slice | Index) -> MaskedColumns:
        masks = self.masks[rows]
        texts = None if self.texts is None else self.texts._replace(of=self.texts.of[rows])
        return replace(self, columns={IDS: masks.tokens}, positions=masks, known=self.known[rows], texts=texts)

    def with_more(self, others: Sequence[Columns]) -> MaskedColumns:
        several = [self, *(each for each in others if isinstance(each, MaskedColumns))]
        assert len(several) == 1 + len(others), "splits of one data set are masked alike"
        masks = replace(
            self.masks,
            lengths=np.concatenate([each.masks.lengths for each in several]),
            tokens=ragged.joined([each.masks.tokens for each in several]),
            keys=np.concatenate([each.masks.keys for each in several]),
        )
        return replace(
            self,
            columns={IDS: masks.tokens},
            positions=masks,
            known=np.concatenate([each.known for each in several]),
            source=" ".join(each.source for each in several),
            texts=None,
        )

    def digest(self) -> str:
        """sha256 over what the examples follow from: it is the same before and after the texts are tokenized."""
        found = hashlib.sha256(f"{self.source} {self.masks.how.identity} ".encode())
        found.update(np.ascontiguousarray(self.masks.keys).data)
        return found.hexdigest()

    def measured(self) -> MaskedColumns:
        """The same with only the positions that have labels, as systems are measured on them."""
        masks, how = self.masks, replace(self.masks.how, positions="masked")
        if masks.how.positions == "masked":
            return self
        return replace(self, positions=replace(masks, lengths=how.masked(masks.lengths), how=how))

    def reduced(self) -> MaskedColumns:
        """The same with only its own of the texts that are still to be tokenized."""
        if self.texts is None:
            return self
        used, of = np.unique(self.texts.of, return_inverse=True)
        texts = self.texts.columns[used]
        rows = used if self.texts.rows is None else self.texts.rows[used]
        return replace(self, source=examples.digest(texts), texts=Texts(texts, of, rows))

    def with_tokens(self, tokens: Ragged, ordinary: Index, how: Masking) -> MaskedColumns:
        """The same with the tokens of their texts. tokens: of each of the T texts; ordinary: [T] of `ordinary_of`."""
        assert self.texts is not None, "tokenized once"
        of, how = self.texts.of, replace(how, positions=self.masks.how.positions)
        own = tokens[of]
        masks = Masks.over(own, self.masks.keys, how, how.positions_of(ordinary)[of])
        return replace(self, columns={IDS: own}, positions=masks, texts=None)


def begun(texts: Mapping[str, Columns], data: DataSpec) -> dict[str, Examples]:
    """The splits as masked examples, copy after copy, with the tokens of a sample of their texts.

    Raises: `RequestError` where `max_length` allows special tokens alone, or a text of a sample has no others.
    """
    spec = data.masking
    assert spec is not None, "the caller has masked texts"
    how = masking.tokenization(spec)
    how.check_room("data.masking.max_length", pair=len(texts["train"].columns) > 1)
    samples = {name: sampled(_bytes(of)) for name, of in texts.items()}
    tokens = {name: tokenized(texts[name][rows], how) for name, (rows, _) in samples.items()}
    sources = {name: examples.digest(of) for name, of in texts.items()}
    vocabulary = Vocabulary.of(spec.tokenizer)
    masked = Masking(spec, vocabulary, np.ones(len(vocabulary.ordinary)), spec.positions, sources["train"])
    masked = masked.weighted(tokens["train"])
    found: dict[str, Examples] = {}
    for name, columns in texts.items():
        rows, stands = samples[name]
        ordinary = masking.ordinary_of(tokens[name], masked, name, rows)
        copies = data.copies_of(name)
        of = np.tile(np.arange(len(columns)), copies)
        own = tokens[name][stands[of]]
        keys = masking.keys_of(len(of), spec.seed, name)
        x = MaskedColumns(
            {IDS: own},
            Masks.over(own, keys, masked, masked.positions_of(ordinary)[stands[of]]),
            IDS,
            known=np.full(len(of), name in LABELLED),
            source=sources[name],
            texts=Texts(columns, of),
        )
        found[name] = x.measured() if name in MEASURED else x
    return found


def sampled(sizes: Index) -> tuple[Index, Index]:
    """The rows of the texts to tokenize before a run, and for each text which of these rows stands for it: [T].

    sizes: [T] bytes of each text. Rows at even distances stand for those that follow them. Of many texts the shortest
    and the longest stand for themselves, so that checks see them.
    """
    count = min(SAMPLE, max(1, int(SAMPLE_BYTES / max(sizes.mean(), 1.0))))
    even = spread(len(sizes), count)
    stands = np.searchsorted(even, np.arange(len(sizes)), side="right") - 1
    if len(even) == len(sizes):
        return even, stands
    ascending = np.argsort(sizes, kind="stable")
    longest = ascending[::-1][:ENDS]
    longest = longest[: max(1, int((np.cumsum(sizes[longest]) <= SAMPLE_BYTES).sum()))]
    ends = np.union1d(ascending[:ENDS], longest)
    stands[ends] = len(even) + np.arange(len(ends))
    return np.concatenate([even, ends]), stands


def tokenized(texts: Columns, how: Tokenization) -> Ragged:
    """The tokens of each text, or pair of texts, made in this process."""
    return how(*_columns(texts))[IDS]


def texts_of(inputs: Mapping[str, Examples]) -> dict[str, tuple[str, Columns]]:
    """The texts that are still to be tokenized, with a split that has them, by `source`: a drawn split has those of
    train."""
    found: dict[str, tuple[str, Columns]] = {}
    for name, x in inputs.items():
        if isinstance(x, MaskedColumns) and x.texts is not None:
            found.setdefault(x.source, (name, x.texts.columns))
    return found


def number_of_texts(inputs: Mapping[str, Examples]) -> int | None:
    """How many texts are to be tokenized, or were, for the splits; None where they have no masked ones."""
    if still := texts_of(inputs):
        return sum(len(of) for _, of in still.values())
    return sum(len(x.of_each_text()) for x in inputs.values() if isinstance(x, MaskedColumns)) or None


def reduced(inputs: Mapping[str, Examples]) -> dict[str, Examples]:
    """The splits with only their own of the texts that are still to be tokenized. Masks count the tokens of train's."""
    splits = {name: x.reduced() for name, x in inputs.items() if isinstance(x, MaskedColumns)}
    return {
        name: x if x.texts is None else replace(x, positions=x.masks.weighted_by(splits["train"].source))
        for name, x in splits.items()
    }


def with_tokens(inputs: Mapping[str, Examples], tokens: Mapping[str, Ragged]) -> dict[str, Examples]:
    """The splits with the tokens of all their texts, and with masks by the token counts of train.

    tokens: [T] of each of the texts of `texts_of`, by `source`. Raises: `RequestError` for a text without a token that
    may be masked.
    """
    splits = {name: x for name, x in inputs.items() if isinstance(x, MaskedColumns)}
    how = splits["train"].masks.how.weighted(tokens[splits["train"].source])
    ordinary: dict[str, Index] = {}
    for source, (name, _) in texts_of(inputs).items():
        texts = splits[name].texts
        ordinary[source] = masking.ordinary_of(tokens[source], how, name, None if texts is None else texts.rows)
    return {name: x.with_tokens(tokens[x.source], ordinary[x.source], how) for name, x in splits.items()}


def _columns(texts: Columns) -> list[Ragged]:
    """The column of texts, and for pairs that of the second texts."""
    return [column for column in texts.columns.values() if isinstance(column, Ragged)]


def _bytes(texts: Columns) -> Index:
    """The size of each text, or pair of texts: [T]."""
    found: Index = np.sum([column.lengths for column in _columns(texts)], axis=0)
    return found
