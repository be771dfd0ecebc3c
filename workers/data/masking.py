"""Masked language modelling: tokens of a text that a model predicts, drawn from (example, copy, seed).

Of the chosen tokens 80% become the mask, 10% a random token, and 10% stay (Devlin, Chang, Lee and Toutanova 2019).
Rare tokens are chosen more often, with a probability proportional to count^-smoothing (Lample and Conneau 2019). An
example has a number of fixed copies with other tokens masked in each, so that soft targets can be stored. The masks of
an example follow from its key alone, so that they are drawn wherever a batch is made.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.data import tokens
from workers.data.arrays import Index
from workers.data.labels import UNLABELLED
from workers.data.ragged import Ragged, edges_of, per_row, stretches
from workers.data.tokens import Tokenization
from workers.errors import RequestError
from workers.hashing import GOLDEN, Hashes, mixed
from workers.specs.data import MaskingSpec

BLOCK_BYTES = 2**22
"""Size of the tokens that are handled at once, so that arrays besides the results stay small."""
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


@dataclass(frozen=True)
class Masking:
    """How the tokens of a split are masked.

    weights: [V] float64, of `weights_of`. positions: `masked` where systems are measured, else as in `spec`. counted:
    digest of the texts whose tokens `weights` counts.
    """

    spec: MaskingSpec
    vocabulary: Vocabulary
    weights: Uniform
    positions: Literal["masked", "all"]
    counted: str

    def masked(self, ordinary: Index) -> Index:
        """How many tokens of texts with so many ordinary ones are masked: [N] int64, at least one of each."""
        found: Index = np.maximum(1, np.round(self.spec.probability * ordinary)).astype(np.int64)
        return found

    def positions_of(self, ordinary: Index) -> Index:
        """How many positions texts with so many ordinary tokens have: [N] int64."""
        return ordinary if self.positions == "all" else self.masked(ordinary)

    def weighted(self, ids: Ragged) -> Masking:
        """The same with the weights that follow from the counts of these tokens."""
        return replace(self, weights=weights_of(ids, self.vocabulary, self.spec.smoothing))

    @property
    def identity(self) -> str:
        """What masks follow from, besides an example's text and key."""
        of_spec: dict[str, Any] = {"probability": self.spec.probability, "smoothing": self.spec.smoothing}
        of_spec["counted"] = self.counted if self.spec.smoothing else ""  # else all tokens are chosen alike
        found = {**tokenization(self.spec).identity, **of_spec, "positions": self.positions}
        return json.dumps(found, sort_keys=True)


def weights_of(ids: Ragged, vocabulary: Vocabulary, smoothing: float) -> Uniform:
    """How often each token is to be chosen, relative to others: [V] float64; 0 for special tokens."""
    counts = np.zeros(len(vocabulary.ordinary))
    for _, block in ids.blocks(BLOCK_BYTES):
        counts += np.bincount(block.flat, minlength=len(counts))
    return np.where(vocabulary.ordinary, np.maximum(counts, 1.0) ** -smoothing, 0.0)


def ordinary_of(ids: Ragged, how: Masking, split: str, rows: Index | None = None) -> Index:
    """How many tokens of each of N texts may be masked, which special ones may not: [N] int64.

    rows: [N] the numbers of the texts in the split; None: from 0. Raises: `RequestError` for a text without any.
    """
    is_ordinary = how.weights > 0
    of_blocks: list[Index] = []
    for _, block in ids.blocks(BLOCK_BYTES):
        of_blocks.append(per_row(is_ordinary[block.flat], edges_of(block.lengths)))
    found: Index = np.concatenate([np.zeros(0, np.int64), *of_blocks])
    without = np.flatnonzero(found == 0)
    if len(without):
        first = int(without[0] if rows is None else rows[without].min())
        raise RequestError(
            f"data.{split}: text {first} has no token of the tokenizer's vocabulary besides special ones. Expected at "
            "least one in each; leave such texts out."
        )
    return found


def keys_of(count: int, seed: int, split: str) -> Hashes:
    """The keys by which a split's examples are masked: [count] uint64. Copy c of text i is example c * texts + i."""
    key = np.zeros((), np.uint64)
    for each in (seed, zlib.crc32(split.encode())):
        with np.errstate(over="ignore"):
            key = mixed(key + np.array(each, np.uint64) + GOLDEN)
    return mixed(np.arange(count, dtype=np.uint64) + key)


class Drawn(NamedTuple):
    """Masked examples [N]: rows of tokens int32, of positions int64 among these, ascending, and of labels int64."""

    tokens: Ragged
    positions: Ragged
    labels: Ragged


def drawn(ids: Ragged, keys: Hashes, how: Masking) -> Drawn:
    """Mask some examples. ids: the tokens of each, at least one of them ordinary. keys: [N] of each.

    About `spec.probability` of an example's ordinary tokens are masked. With `positions: all`, the other ordinary
    tokens are positions without a label.
    """
    flat, lengths = np.array(ids.flat, np.int64), ids.lengths
    of_text, starts = np.repeat(np.arange(len(ids)), lengths), np.cumsum(lengths) - lengths
    places, weights = np.arange(len(flat)) - starts[of_text], how.weights[flat]
    ordinary = weights > 0
    with np.errstate(divide="ignore"):  # the first of independent clocks at these rates (Efraimidis 2006)
        arrivals = np.where(ordinary, -np.log(_uniform(keys[of_text], places, 0)) / weights, np.inf)
    counts = per_row(ordinary, edges_of(lengths))
    chosen = np.sort(np.lexsort((arrivals, of_text))[stretches(starts, how.masked(counts))])
    made = flat.astype(np.int32)
    made[chosen] = _replaced(flat[chosen], keys[of_text[chosen]], places[chosen], how.vocabulary)
    at, labels = chosen, flat[chosen]
    if how.positions == "all":
        of_all = np.full(len(flat), UNLABELLED, np.int64)
        of_all[chosen] = labels
        at = np.flatnonzero(ordinary)
        labels = of_all[at]
    per_text = how.positions_of(counts)
    return Drawn(Ragged.packed(made, lengths), Ragged.packed(places[at], per_text), Ragged.packed(labels, per_text))


def _uniform(keys: Hashes, places: Index, number: int) -> Uniform:
    """One of three uniform numbers in (0, 1] of each token: [n], by `number`.

    keys: [n] of the token's example. places: [n] of the token there.
    """
    with np.errstate(over="ignore"):
        bits = mixed(keys + (3 * places + number + 1).astype(np.uint64) * GOLDEN)
    return ((bits >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


def _replaced(chosen: Index, keys: Hashes, places: Index, vocabulary: Vocabulary) -> Index:
    """The chosen tokens [n] masked, replaced or left. keys, places: as of `_uniform`."""
    share, which, ordinary = _uniform(keys, places, 1), _uniform(keys, places, 2), np.flatnonzero(vocabulary.ordinary)
    others = ordinary[np.minimum((which * len(ordinary)).astype(np.int64), len(ordinary) - 1)]
    found: Index = np.where(share <= MASKED, vocabulary.mask, np.where(share <= MASKED + RANDOM, others, chosen))
    return found
