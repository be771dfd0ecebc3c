"""Tables of a run's classes: how often each is right, and what a system takes it for. Without numpy, for `--help`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Confusions = Mapping[Any, Sequence[Sequence[int]]]
"""For each system, its test examples by label (rows) and prediction (columns): [K, K]."""
ERRORS = 10
"""Rows in the table of errors."""
PAIRS = 8
"""Most pairs of classes in the figure of shared confusion."""


@dataclass(frozen=True)
class Pair:
    """How many test examples of class `label` each system takes for class `predicted`."""

    label: str
    predicted: str
    counts: Mapping[str, int]


def accuracy(labels: Sequence[str], confusions: Confusions) -> list[list[str]]:
    """A row for each class that the test split has: its examples, and the share that each system gets right."""
    examples = [sum(row) for row in next(iter(confusions.values()))]
    rows = [["class", "test examples", *confusions]]
    for k, count in enumerate(examples):
        if count:
            right = [f"{found[k][k] / count:.1%}" for found in confusions.values()]
            rows.append([name(labels, k), str(count), *right])
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
        rows.append([name(labels, label), name(labels, predicted), *numbers])
    return rows


def shared(labels: Sequence[str], confusions: Confusions) -> list[Pair]:
    """The pairs of classes that the student confuses as the ensemble does, those that both confuse most first."""
    ensemble, student = confusions["ensemble"], confusions["student"]
    both = {
        (label, predicted): (min(count, student[label][predicted]), student[label][predicted])
        for label, row in enumerate(ensemble)
        for predicted, count in enumerate(row)
        if label != predicted and min(count, student[label][predicted])
    }
    return [
        Pair(
            name(labels, label),
            name(labels, predicted),
            {system: found[label][predicted] for system, found in confusions.items()},
        )
        for label, predicted in sorted(both, key=lambda pair: both[pair], reverse=True)[:PAIRS]
    ]


def name(labels: Sequence[str], k: int) -> str:
    """The name of class `k`; its number where classes have none."""
    return labels[k] if k < len(labels) else str(k)
