"""Tables of a run's classes: how often each is right, and what a system takes it for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Confusions = Mapping[Any, Sequence[Sequence[int]]]
"""For each system, its test examples by label (rows) and prediction (columns): [K, K]."""
ERRORS = 10
"""Rows in the table of errors."""


def accuracy(labels: Sequence[str], confusions: Confusions) -> list[list[str]]:
    """A row for each class that the test split has: its examples, and the share that each system gets right."""
    counts = {system: np.array(found) for system, found in confusions.items()}
    examples = next(iter(counts.values())).sum(axis=1)
    rows = [["class", "test examples", *counts]]
    for k in np.flatnonzero(examples).tolist():
        right = [f"{found[k, k] / examples[k]:.1%}" for found in counts.values()]
        rows.append([_name(labels, k), str(examples[k]), *right])
    return rows


def errors(labels: Sequence[str], confusions: Confusions, of: str) -> list[list[str]]:
    """The most frequent errors of one system, and how often each of the others makes them."""
    counts = {system: np.array(found) for system, found in confusions.items()}
    wrong = counts[of] * ~np.eye(len(counts[of]), dtype=bool)
    most = np.argsort(-wrong, axis=None, kind="stable")[:ERRORS]
    rows = [["label", "predicted", *counts]]
    for label, predicted in zip(*np.unravel_index(most, wrong.shape), strict=True):
        if wrong[label, predicted]:
            numbers = [str(found[label, predicted]) for found in counts.values()]
            rows.append([_name(labels, int(label)), _name(labels, int(predicted)), *numbers])
    return rows


def _name(labels: Sequence[str], k: int) -> str:
    return labels[k] if labels else str(k)
