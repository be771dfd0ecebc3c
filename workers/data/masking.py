"""Masked language modelling: tokens of a text that a model predicts, drawn from (example, copy, seed).

Of the chosen tokens 80% become the mask, 10% a random token, and 10% stay (Devlin, Chang, Lee and Toutanova 2019).
Rare tokens are chosen more often, with a probability proportional to count^-smoothing (Lample and Conneau 2019). An
example has a number of fixed copies with other tokens masked in each, so that soft targets can be stored. So masked
texts are columns of tokens with positions, as a data factory may return them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.data import tokens
from workers.data.arrays import Index
from workers.data.examples import Columns
from workers.data.labels import UNLABELLED
from workers.data.ragged import Ragged, contiguous, stretches
from workers.data.tokens import IDS, Tokenization
from workers.errors import RequestError
from workers.hashing import GOLDEN, mixed
from workers.specs.data import MaskingSpec

BLOCK_BYTES = 2**22
"""Size of the texts or tokens that are handled at once, so that arrays besides the results stay small."""
MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become the mask, and a random token; the others stay."""
Uniform = NDArray[np.float64]


class Vocabulary(NamedTuple):
    """What masking needs of a tokenizer. ordinary: [V] bool, which ids are tokens of texts; mask: the mask's id."""

    ordinary: NDArray[np.bool_]
    mask: int

    @classmethod
    def of(cls, uri: str) -> Vocabulary:
        """Raises: `RequestError` for a tokenizer without a mask."""
        tokenizer: Any = tokens.of_texts(uri)
        if tokenizer.mask_token_id is None:
            raise RequestError(
                f"data.masking.tokenizer: '{uri}' has no mask token. Expected the tokenizer of a masked language model."
            )
        ordinary = np.ones(tokens.vocabulary(uri), bool)
        special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        ordinary[[each for each in special if each < len(ordinary)]] = False
        return cls(ordinary, int(tokenizer.mask_token_id))


def tokenization(spec: MaskingSpec) -> Tokenization:
    return Tokenization(spec.tokenizer, spec.max_length)


def tokenized(texts: Columns, spec: MaskingSpec) -> Ragged:
    """The tokens of each text. Raises: `RequestError` where `max_length` has room for special tokens alone."""
    how = tokenization(spec)
    columns = [column for column in texts.columns.values() if isinstance(column, Ragged)]
    how.check_room("data.masking.max_length", pair=len(columns) > 1)
    return contiguous(
        [
            how(*(column[first : first + len(block)] for column in columns))[IDS]
            for first, block in columns[0].blocks(BLOCK_BYTES)
        ]
    )


def weights_of(ids: Ragged, vocabulary: Vocabulary, smoothing: float) -> Uniform:
    """How often each token is to be chosen, relative to others: [V] float64; 0 for special tokens."""
    counts = np.bincount(ids.flat, minlength=len(vocabulary.ordinary)).astype(np.float64)
    return np.where(vocabulary.ordinary, np.maximum(counts, 1.0) ** -smoothing, 0.0)


def masked(
    ids: Ragged, weights: Uniform, vocabulary: Vocabulary, spec: MaskingSpec, *, copies: int, where: str
) -> tuple[Columns, Ragged]:
    """Masked tokens with their positions, and the labels of these.

    ids: the tokens of each of N texts. weights: [V], of `weights_of`. Returns N * copies examples, copy after copy.
    Each has at least one masked token, and about `spec.probability` of its ordinary ones. With `positions: all`, the
    other ordinary tokens are positions without a label.

    Raises: `RequestError` for a text without an ordinary token.
    """
    blocks = [
        _block(block, weights, vocabulary, spec, _Place(where, first, copy * len(ids)))
        for copy in range(copies)
        for first, block in ids.blocks(BLOCK_BYTES)
    ]
    tokens_, positions, labels = (contiguous(several) for several in zip(*blocks, strict=True))
    return Columns({IDS: tokens_}, positions, IDS), labels


class _Place(NamedTuple):
    """Where a block of texts is: in which split, its first text there, and the number of examples before its copy."""

    split: str
    first: int
    before: int


def _block(
    ids: Ragged, weights: Uniform, vocabulary: Vocabulary, spec: MaskingSpec, place: _Place
) -> tuple[Ragged, Ragged, Ragged]:
    """One copy of some texts: tokens, positions, and labels of these."""
    flat, lengths = ids.flat.astype(np.int64), ids.lengths
    of_text = np.repeat(np.arange(len(ids)), lengths)
    ordinary = weights[flat] > 0
    counts = np.bincount(of_text, weights=ordinary, minlength=len(ids)).astype(np.int64)
    if not counts.all():
        raise RequestError(
            f"data.{place.split}: text {place.first + int(np.argmin(counts))} has no token of the tokenizer's "
            "vocabulary besides special ones. Expected at least one in each; leave such texts out."
        )
    wanted = np.maximum(1, np.round(spec.probability * counts)).astype(np.int64)
    draws = _draws(of_text, lengths, place.before + place.first, [spec.seed, zlib.crc32(place.split.encode())])
    with np.errstate(divide="ignore"):  # the first `wanted` of independent clocks at these rates (Efraimidis 2006)
        arrivals = np.where(ordinary, -np.log(draws[0]) / weights[flat], np.inf)
    first = np.lexsort((arrivals, of_text))
    chosen = np.zeros(len(flat), bool)
    chosen[first[stretches(np.cumsum(lengths) - lengths, wanted)]] = True
    positions = ordinary if spec.positions == "all" else chosen
    at = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    per_text = _per_row(positions, lengths)
    made = _replaced(flat, chosen, draws[1:], vocabulary).astype(np.int32)
    labels = np.where(chosen, flat, UNLABELLED)[positions]
    return Ragged.packed(made, lengths), Ragged.packed(at[positions], per_text), Ragged.packed(labels, per_text)


def _draws(of_example: Index, lengths: Index, first: int, seeds: Sequence[int]) -> list[Uniform]:
    """Three uniform numbers in (0, 1] for each token, from its example, its place there and the seeds."""
    key = np.zeros((), np.uint64)
    for seed in seeds:
        with np.errstate(over="ignore"):
            key = mixed(key + np.array(seed, np.uint64) + GOLDEN)
    keys = mixed((of_example + first).astype(np.uint64) + key)
    place = np.arange(len(of_example)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    with np.errstate(over="ignore"):
        each = [mixed(keys + (3 * place + k + 1).astype(np.uint64) * GOLDEN) for k in range(3)]
    return [((bits >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53 for bits in each]


def _replaced(flat: Index, chosen: NDArray[np.bool_], draws: list[Uniform], vocabulary: Vocabulary) -> Index:
    """The tokens with the chosen ones masked, replaced or left. draws: two numbers for each token."""
    ordinary = np.flatnonzero(vocabulary.ordinary)
    others = ordinary[np.minimum((draws[1] * len(ordinary)).astype(np.int64), len(ordinary) - 1)]
    replaced = np.where(draws[0] <= MASKED, vocabulary.mask, np.where(draws[0] <= MASKED + RANDOM, others, flat))
    return np.where(chosen, replaced, flat)


def _per_row(kept: NDArray[np.bool_], lengths: Index) -> Index:
    """How many elements of each row are kept."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    found: Index = np.diff(ends[edges])
    return found
