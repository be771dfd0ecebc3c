"""Trial of models whose weights are given: they fit, are finite on odd rows, and have the data's order of classes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Index, spread
from workers.data.dataset import NO_ROWS, Split
from workers.data.labels import UNLABELLED
from workers.errors import RequestError
from workers.evaluation import class_order
from workers.models import checkpoints, outputs, predictor, torch_module
from workers.models.torch_module import TorchPredictor
from workers.seeds import seeded
from workers.specs.models import AnyModel, ModelSpec
from workers.trial import answers as asked
from workers.trial.answers import Network
from workers.trial.odd_rows import OddRow
from workers.user_code import provenance

SETTLED_ROWS = 64
"""Training rows that decide the kind of a file's outputs."""
OF_EACH_CLASS, ORDERED_AT_ONCE, ORDER_S = 16, 256, 10.0
"""Whether classes are in order: labelled rows of each, of which two classes need 14 together (`class_order.CHANCE`);
most rows of a forward pass, and about the time for all of them."""
LOOKED_AT = 2**20
"""Labels among which these rows are chosen, at even distances."""


@dataclass(frozen=True)
class Loaded:
    """A model whose weights are loaded: its name in messages, and the examples on which it is checked.

    odd: rows on which its outputs must be finite. names: of the classes; empty: their ids.
    """

    name: str
    model: AnyModel
    examples: Split
    classes: int
    odd: Sequence[OddRow]
    names: Sequence[str] = ()


def check_loaded(loaded: Loaded, uris: Sequence[str]) -> tuple[str, ...]:
    """Check networks that the run loads from checkpoints.

    Each file must fit the network, give finite outputs for every row, and determine the outputs completely. Returns
    notes for the user. Raises: `RequestError`.
    """
    notes: tuple[str, ...] = ()
    spec, examples = loaded.model, loaded.examples
    assert isinstance(spec, ModelSpec)
    with seeded(0), provenance.in_use(spec):
        module, other = torch_module.build(spec), torch_module.build(spec, seed=1)
        collator = predictor.collator(spec)
        built = Network(TorchPredictor(module), spec.label, loaded.classes, examples.x, loaded.name, collator)
        asked.check_output(built)  # so that a fault of the network is not attributed to a file
        for number, uri in enumerate(uris):
            network = replace(built, role=f"checkpoint '{uri}': {loaded.name}")
            notes += tuple(checkpoints.load(module, uri))
            asked.check_output(network)
            found = asked.check(network, loaded.odd)
            notes += _check_order(network, examples, loaded.names)
            if number == 0:
                notes += found
                checkpoints.load(other, uri)
                asked.check_same(network, TorchPredictor(other))
    return notes


def check_file(loaded: Loaded, weights: str) -> tuple[str, ...]:
    """Check a file or folder that is a complete model: its input fits, and each row has one finite output.

    Returns notes for the user. Raises: `RequestError`.
    """
    with seeded(0):
        settled, notes = settle(loaded.model, weights, loaded.examples)
        model, collator = predictor.load(settled, weights), predictor.collator(settled)
        network = Network(model, f"'{weights}'", loaded.classes, loaded.examples.x, loaded.name, collator)
        asked.check_output(network)
        notes += asked.check(network, loaded.odd)
        notes += _check_order(network, loaded.examples, loaded.names)
    return notes


def settle(model: AnyModel, weights: str, examples: Split) -> tuple[AnyModel, tuple[str, ...]]:
    """Load a model's file and settle the open choices of its spec on some of the examples; the spec, and notes."""
    ids = spread(len(examples), SETTLED_ROWS)
    return predictor.kind_of(model).settled(model, weights, predictor.collator(model)(examples.x, ids))


def _check_order(network: Network, examples: Split, names: Sequence[str]) -> tuple[str, ...]:
    """A note where a loaded model takes classes for each other without being sure of its answers.

    The tokens of masked texts are compared by their ids already (`tokens.moved`), without a pass over all labels.

    Raises: `RequestError` where it is sure: its classes are in another order than those of the data.
    """
    if examples.labels is None:
        return ()
    ids, at_once = _of_each_class(examples), min(ORDERED_AT_ONCE, network.affordable)
    started, answers, labels = time.monotonic(), [NO_ROWS], [NO_ROWS]
    sure: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
    for start in range(0, len(ids), at_once):
        rows = ids[start : start + at_once]
        probabilities = outputs.probabilities(network.answers(network.some(rows))).numpy()
        answers.append(probabilities.argmax(axis=1))
        sure.append(class_order.confidence(probabilities))
        labels.append(examples.labels_of(rows))
        if time.monotonic() - started > ORDER_S:
            break
    reference = np.concatenate(labels)
    known = reference != UNLABELLED
    said, confident = np.concatenate(answers)[known], np.concatenate(sure)[known]
    swapped = class_order.swapped(said, reference[known], confident, names)
    if swapped is None:
        return ()
    if not swapped.sure:
        return (class_order.note(str(network), "the labels say", swapped),)
    raise RequestError(
        f"{network} seems to have its classes in another order: what the labels say is {swapped.pairs}. "
        f"{class_order.FIX}"
    )


def _of_each_class(examples: Split) -> Index:
    """Examples [n] int64 with `OF_EACH_CLASS` labels of each class, or all that there are; the first ones have as many
    of each."""
    rows = np.random.default_rng(0).permutation(spread(len(examples.y), LOOKED_AT))
    rows = rows[examples.y[rows] != UNLABELLED]
    rows = rows[np.argsort(examples.y[rows], kind="stable")]
    _, firsts, counts = np.unique(examples.y[rows], return_index=True, return_counts=True)
    turns = np.arange(len(rows)) - np.repeat(firsts, counts)
    rows = rows[np.argsort(turns, kind="stable")][: np.count_nonzero(turns < OF_EACH_CLASS)]
    every = np.arange(len(examples))
    found = examples.rows.repeated(every, every)[rows]
    _, first_times = np.unique(found, return_index=True)
    in_turn: Index = found[np.sort(first_times)]
    return in_turn
