"""Where the student answers as the ensemble does, and where not: counts, and the rows on which the two differ most.

Counts of parts of a split can be added, and so can their rows, of which the most divergent are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workers.data.arrays import Float64, Index
from workers.evaluation import mixture
from workers.evaluation.metrics import LogProbabilities
from workers.evaluation.mixture import MemberWeights

Kind = Literal["lost", "gained", "divergent"]
"""`lost`: the ensemble is right and the student wrong. `gained`: the other way round. `divergent`: both are right, or
both are wrong, of unlike probabilities."""
KINDS: tuple[Kind, ...] = ("lost", "gained", "divergent")
LIKELIEST = 3
"""Classes of an answer that are kept."""

Answer = list[tuple[int, float]]
"""The likeliest classes with their probabilities, the likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a split with two answers. divergence: KL of the ensemble's from the student's probabilities, nats."""

    kind: Kind
    row: int
    label: int
    ensemble: Answer
    student: Answer
    divergence: float


@dataclass(frozen=True, kw_only=True)
class AgreementSums:
    """Rows by the two answers. most: the rows of each kind that `rows` keeps, the most divergent first."""

    both_right: int
    lost: int
    gained: int
    wrong_alike: int
    """Both are wrong, with the same class."""
    wrong_otherwise: int
    rows: Sequence[Row]
    most: int

    def __add__(self, other: AgreementSums) -> AgreementSums:
        counts = ("both_right", "lost", "gained", "wrong_alike", "wrong_otherwise")
        added = {name: getattr(self, name) + getattr(other, name) for name in counts}
        return AgreementSums(**added, rows=_most([*self.rows, *other.rows], self.most), most=self.most)


def compare(
    members: Sequence[LogProbabilities],
    weights: MemberWeights,
    combine: str,
    student: LogProbabilities,
    *,
    labels: Index,
    most: int,
    first: int = 0,
) -> AgreementSums:
    """Compare the answers of the ensemble and the student.

    members: M arrays [n, K] of log-probabilities; student: one such array. labels: [n] int64. most: rows to keep of
    each kind. first: the number of the first row in its split.
    """
    best, divergence = np.empty((2, len(labels)), np.int64), np.empty(len(labels))
    for rows, mean in mixture.log_means(members, weights, combine):
        best[0, rows], best[1, rows] = mean.argmax(axis=1), student[rows].argmax(axis=1)
        divergence[rows] = _divergence(mean, student[rows].astype(np.float64))
    right, alike = best == labels, best[0] == best[1]
    wrong = ~right[0] & ~right[1]
    of_kind = {"lost": right[0] & ~right[1], "gained": ~right[0] & right[1], "divergent": right[0] == right[1]}
    kept = []
    for kind in KINDS:
        held = np.flatnonzero(of_kind[kind] & (divergence > 0))
        chosen = held[np.argsort(-divergence[held], kind="stable")[:most]]
        means = mixture.log_mean([p[chosen] for p in members], weights, combine)
        kept += [
            Row(
                kind=kind,
                row=first + int(row),
                label=int(labels[row]),
                ensemble=_answer(mean),
                student=_answer(student[row]),
                divergence=float(divergence[row]),
            )
            for row, mean in zip(chosen, means, strict=True)
        ]
    return AgreementSums(
        both_right=int((right[0] & right[1]).sum()),
        lost=int(of_kind["lost"].sum()),
        gained=int(of_kind["gained"].sum()),
        wrong_alike=int((wrong & alike).sum()),
        wrong_otherwise=int((wrong & ~alike).sum()),
        rows=kept,
        most=most,
    )


def _most(rows: Sequence[Row], most: int) -> list[Row]:
    """The most divergent rows of each kind; of equal ones the first in the split."""
    ordered = sorted(rows, key=lambda each: (-each.divergence, each.row))
    return [each for kind in KINDS for each in [row for row in ordered if row.kind == kind][:most]]


def _divergence(ensemble: Float64, student: Float64) -> Float64:
    """KL of the ensemble from the student, in nats, from log-probabilities [n, K]; 0 * log 0 is 0."""
    with np.errstate(invalid="ignore"):
        terms = np.exp(ensemble) * (ensemble - student)
    found: Float64 = np.where(np.isneginf(ensemble), 0.0, terms).sum(axis=1)
    return np.maximum(found, 0.0)


def _answer(log_probabilities: Float64 | LogProbabilities) -> Answer:
    likeliest = np.argsort(-log_probabilities, kind="stable")[:LIKELIEST]
    return [(int(k), float(np.exp(log_probabilities[k]))) for k in likeliest]
