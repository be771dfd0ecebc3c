"""One small fit of an estimator before the run starts: fit it, save it, load it again and check its outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.data.arrays import spread
from workers.data.dataset import Split
from workers.data.labels import UNLABELLED
from workers.errors import naming
from workers.models import predictor
from workers.models.predictor import Lessons
from workers.seeds import seed_of, seeded
from workers.specs.models import OwnModel, SklearnModel
from workers.specs.training import FitSpec
from workers.training.lessons import one_hot, rows
from workers.trial import answers as asked
from workers.trial.answers import Network
from workers.trial.odd_rows import OddRow
from workers.user_code import provenance

ROWS, OF_A_CLASS = 256, 4
"""About how many rows the trial fits, and at most how many of each class."""
SECOND = 0.25
"""Probability of a second class, beside the label's, in a synthetic soft target."""


@dataclass(frozen=True)
class FitRole:
    """An estimator to fit: its examples and settings, and its name in messages."""

    name: str
    model: SklearnModel | OwnModel
    training: FitSpec
    seed: int
    examples: Split
    is_soft: bool = False
    """Whether it learns from soft targets."""
    known: bool = False
    """Whether the trial of another role already checks this estimator; here it is only fitted."""


def check_fitting(role: FitRole, classes: int, odd: Sequence[OddRow]) -> tuple[str, ...]:
    """Fit `role`'s estimator to a few rows as the run does, check its outputs, save it and load it again.

    odd: rows on which its outputs must be finite. Returns notes for the user. Raises: `RequestError`.
    """
    x, label, collator = role.examples.x, role.model.label, predictor.collator(role.model)
    with seeded(seed_of(role.seed, "trial")), provenance.in_use(role.model):
        rows(x, np.zeros(1, np.int64), collator)
        kind = predictor.fittable(role.model)
        fitted = kind.fit(role.model, _few(role, classes), role.training.fit)
        network = Network(fitted, label, classes, x, role.name, collator)
        asked.check_output(network)
        if role.known:
            return ()
        notes = asked.check(network, odd)
        with tempfile.TemporaryDirectory(prefix="stillhouse-trial-") as folder:
            place = Path(folder, role.model.weights_name)
            place.write_bytes(fitted.dump())
            with naming(f"{network} cannot be saved and loaded"):
                loaded = kind.load(role.model, str(place))
            asked.check_same(network, loaded)
    return notes + tuple(f"The {network}: {note}" for note in fitted.notes())


def _few(role: FitRole, classes: int) -> Lessons:
    """Rows of each class and rows spread over the split; with synthetic soft targets if the run gives the role some."""
    y = role.examples.y
    of_each = [np.flatnonzero(y == label)[:OF_A_CLASS] for label in range(classes)]
    spaced = spread(len(y), ROWS)
    ids = np.unique(np.concatenate([*of_each, spaced[y[spaced] != UNLABELLED]]))
    labels = y[ids]
    targets = one_hot(labels, classes)
    if role.is_soft:
        targets = (1 - SECOND) * targets + SECOND * one_hot((labels + 1) % classes, classes)
    x = rows(role.examples.x, ids, predictor.collator(role.model))
    weights = np.ones(len(ids), np.float32)
    return Lessons(x, targets, weights, None if role.is_soft else labels, role.seed)
