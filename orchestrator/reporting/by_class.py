"""Tables of a run's classes: how often each is right, and what a system takes it for. Without numpy, for `--help`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Confusions = Mapping[Any, Sequence[Sequence[int]]]
"""For each system, its test examples by label (rows) and prediction (columns): [K, K]."""
ERRORS = 10
"""Rows in the table of errors."""


def accuracy(labels: Sequence[str], confusions: Confusions) -> list[list[str]]:
    """A row for each class that the test split has: its examples, and the share that each system gets right."""
    examples = [sum(row) for row in next(iter(confusions.values()))]
    rows = [["class", "test examples", *confusions]]
    for k, count in enumerate(examples):
        if count:
            right = [f"{found[k][k] / count:.1%}" for found in confusions.values()]
            rows.append([_name(labels, k), str(count), *right])
    return rows


def errors(labels: Sequence[str], confusions: Confusions, of: str) -> list[list[str]]:
    """The most frequent errors of one system, and how often each of the others makes them."""
    wrong = {
        (label, predicted): count
        for label, row in enumerate(confusions[of])
        for predicted, count in enumerate(row)
        if count and label != predicted
    }
    rows = [["label", "predicted", *confusions]]
    for label, predicted in sorted(wrong, key=lambda pair: -wrong[pair])[:ERRORS]:
        numbers = [str(found[label][predicted]) for found in confusions.values()]
        rows.append([_name(labels, label), _name(labels, predicted), *numbers])
    return rows


def _name(labels: Sequence[str], k: int) -> str:
    return labels[k] if labels else str(k)
