"""Checks that a network in evaluation mode gives an example the same finite output in every call and every batch.

So they also detect a network that ignores the mask of padded rows, since a batch of one example has less padding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from workers.data import examples
from workers.data.arrays import Index, spread
from workers.data.collate import Collator, Inputs, Strip, collate, rows_between, rows_of, shortest
from workers.data.examples import Examples, columns_of
from workers.data.ragged import Ragged
from workers.data.tokens import IDS, vocabulary
from workers.errors import RequestError, naming
from workers.models import checked, outputs
from workers.models.comparison import ALONE, SAME, apart, finite, lost
from workers.models.predictor import Predictor
from workers.trial.odd_rows import OddRow

ROWS, ODD_ROWS = 8, 256
"""Most rows of a forward pass: where outputs are compared, and of odd rows."""
AFFORDABLE_S = 2.0
"""Approximate time budget of one forward and backward pass, and of all odd rows together."""
FIRST = np.zeros(1, np.int64)
FINITE = " Expected finite logits: guard divisions, logarithms and roots, and check the scale of the inputs."
"""The end of a message on logits that are not finite."""


@dataclass(frozen=True)
class Network:
    """A network under test: its predictor, name and role in messages, number of classes and inputs."""

    predictor: Predictor
    label: str
    classes: int
    x: Examples
    role: str
    collator: Collator = collate

    def __str__(self) -> str:
        return f"{self.role} model {self.label}"

    @property
    def module(self) -> nn.Module:
        """The torch module that is trained."""
        assert self.predictor.module is not None
        return self.predictor.module

    @cached_property
    def affordable(self) -> int:
        """Rows that a forward and a backward pass finish within `AFFORDABLE_S`; at least two."""
        batch = self.some(spread(len(self.x), 2))
        self.answers(batch)  # warms up
        started = time.perf_counter()
        self.answers(batch)
        seconds = 3 * (time.perf_counter() - started) / len(batch)
        return max(2, int(AFFORDABLE_S / max(seconds, 1e-9)))

    @cached_property
    def batch(self) -> Inputs:
        """Some examples, spread over the whole split, as a batch of the model's collator."""
        ids = spread(len(self.x), min(ROWS, self.affordable))
        ragged = [column for column in columns_of(self.x).values() if isinstance(column, Ragged)]
        ends = [ragged[0].lengths.argmin(), ragged[0].lengths.argmax()] if ragged else []
        return self.some(np.unique(np.concatenate([ids, np.array(ends, np.int64)])))

    def some(self, ids: Index) -> Inputs:
        """The examples `ids`, as a batch of the model's collator. Raises: `RequestError` where it cannot make one."""
        with naming(str(self)):
            return self.collator(self.x, ids)

    def answers(self, batch: Inputs) -> Tensor:
        """Logits [P, K] in evaluation mode. Raises: `RequestError` where the output is anything else."""
        return checked.answers(self.predictor, self.label, batch, self.classes, self.role)


def check_output(network: Network) -> None:
    """Raise `RequestError` unless the network turns two examples into finite logits."""
    few = network.some(np.arange(min(2, len(network.x))))
    if not torch.isfinite(network.answers(few)).all():
        raise RequestError(f"{network} returned NaN or infinity on two examples.{FINITE}")


def check(network: Network, odd: Sequence[OddRow]) -> tuple[str, ...]:
    """Raise `RequestError` unless each row has one finite output; return a note where outputs are probabilities.

    odd: rows on which networks may compute NaN, the oddest first.
    """
    first, again = network.answers(network.batch), network.answers(network.batch)
    if not finite(first).all():
        raise RequestError(f"{network} returned NaN or infinity on {len(network.batch)} training examples.{FINITE}")
    by = apart(first, again)
    if not by <= SAME:
        raise RequestError(
            f"{network} answers the same examples differently each time in evaluation mode, by {by:.2g} of its largest "
            "logit. Expected no random numbers there: use modules such as nn.Dropout, or look at self.training, so "
            "that eval() ends it."
        )
    one = shortest(network.batch)  # which is padded less by itself
    by = apart(first[rows_between(network.batch, one, one + 1)], network.answers(network.batch[one : one + 1]))
    if not by <= ALONE:
        padding = "" if isinstance(network.batch, Tensor) else ", and leave padding out by `attention_mask`"
        raise RequestError(
            f"{network} answers an example differently where others are beside it, by {by:.2g} of its largest logit in "
            "evaluation mode. Expected each answer to follow from its own row, since batches are cut in several ways: "
            f"keep running statistics instead of the batch's own{padding}."
        )
    _check_odd(network, odd)
    _check_largest_token(network)
    if outputs.are_probabilities(first):
        return (
            f"The {network} returns probabilities (its rows sum to 1: a softmax at the end?). Expected logits: the "
            "loss takes a softmax of its own, at its temperature. Leave the model's out.",
        )
    return ()


def check_same(network: Network, loaded: Predictor) -> None:
    """Raise `RequestError` where the outputs of `loaded`, which has the same weights, differ."""
    other = replace(network, predictor=loaded)
    by = apart(network.answers(network.batch), other.answers(network.batch))
    if not by <= SAME:
        raise RequestError(
            f"{network} answers differently once its weights are saved and loaded, by {by:.2g} of its largest logit. "
            f"{lost(network.predictor, loaded)}"
        )


def _check_odd(network: Network, odd: Sequence[OddRow]) -> None:
    """Raise `RequestError` where the output for an odd row is not finite; stop after `AFFORDABLE_S`."""
    started, at_once = time.monotonic(), min(ODD_ROWS, network.affordable)
    for start in range(0, len(odd), at_once):
        rows = odd[start : start + at_once]
        found = finite(_answers_to(network, rows)).split([rows_of(network.collator(row.x, FIRST)) for row in rows])
        for row, sound in zip(rows, found, strict=True):
            if not sound.all():
                raise RequestError(
                    f"{network} returned NaN or infinity for {row}. Expected finite logits for every example: guard "
                    "divisions, logarithms and roots, for example by a small number in the denominator, or leave such "
                    "examples out."
                )
        if time.monotonic() - started > AFFORDABLE_S:
            return


def _check_largest_token(network: Network) -> None:
    """Raise `RequestError` where the network cannot take each token of its tokenizer, of which texts may have few."""
    batch, how = network.batch, network.collator.tokens
    ids = None if isinstance(batch, Tensor) else batch.columns.get(IDS)
    if how is None or isinstance(batch, Tensor) or not isinstance(ids, Strip):
        return
    row, largest = int(ids.lengths.argmax()), vocabulary(how.uri) - 1
    one, strip = batch[row : row + 1], ids.cut(row, row + 1)
    values = strip.values.clone()
    values[(len(values) - 1) // 2] = largest  # between special tokens, which a network may look for
    where = f"a text with the token {largest:,}, the largest id of its tokenizer '{how.uri}'"
    try:
        found = network.answers(replace(one, columns={**one.columns, IDS: strip.like(values)}))
    except RequestError as error:
        raise RequestError(
            f"{error} That was {where}. Expected a network of {largest + 1:,} tokens, or another tokenizer."
        ) from error
    if not finite(found).all():
        raise RequestError(f"{network} returned NaN or infinity for {where}.{FINITE}")


def _answers_to(network: Network, rows: Sequence[OddRow]) -> Tensor:
    """Logits [P, K]. Raises: `RequestError`, which names the row if a single row makes the network fail."""
    try:
        return network.answers(network.collator(examples.joined([row.x for row in rows]), np.arange(len(rows))))
    except RequestError as error:
        if len(rows) == 1:
            raise RequestError(f"{error} That was {rows[0]}.") from error
        for row in rows:
            _answers_to(network, [row])
        raise
