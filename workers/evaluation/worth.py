"""What each member of an ensemble is worth, from predictions alone: nothing is trained or predicted again.

The best k members are chosen greedily on the validation split (Caruana, Niculescu-Mizil, Crew and Ksikes 2004) and
measured on the test split, each prefix of that order and the ensemble without each of its members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.data.arrays import Float64, Index
from workers.evaluation import mixture
from workers.evaluation.metrics import Blocks, LogProbabilities, Sums
from workers.evaluation.mixture import MemberWeights


@dataclass(frozen=True)
class WorthSums:
    """Sums over test predictions.

    best: of the ensembles of the first 1, 2, ... M members of the order. without: of the ensembles that lack one
    member, by its number; empty for a single member. disagree: [M, M] float64, rows on which two members predict other
    classes.
    """

    best: Sequence[Sums]
    without: Sequence[Sums]
    disagree: Float64

    def __add__(self, other: WorthSums) -> WorthSums:
        return WorthSums(
            [one + two for one, two in zip(self.best, other.best, strict=True)],
            [one + two for one, two in zip(self.without, other.without, strict=True)],
            self.disagree + other.disagree,
        )


def greedy(
    log_probabilities: Sequence[LogProbabilities], labels: Index, combine: str, rule: MemberWeights | None = None
) -> list[int]:
    """Order members so that each is the one that helps those before it most, in validation accuracy, then in NLL.

    log_probabilities: M arrays [N, K] of the validation split. labels: [N] int64. rule: of the ensemble; members are
    weighted equally (`mixture.alike`).
    """
    order: list[int] = []
    left = list(range(len(log_probabilities)))
    while left:

        def quality(member: int) -> tuple[float, float, int]:
            chosen = [*order, member]
            picked = [log_probabilities[k] for k in chosen]
            found = mixture.measure_mean(picked, mixture.alike(rule, chosen), combine, labels)
            return found.accuracy, -found.mean_nll, -member

        order.append(max(left, key=quality))
        left.remove(order[-1])
    return order


def measure_worth(
    log_probabilities: Sequence[LogProbabilities],
    order: Sequence[int],
    combine: str,
    labels: Index,
    blocks: Blocks,
    *,
    rule: MemberWeights | None = None,
) -> WorthSums:
    """The sums of some test rows, with members of equal weights.

    log_probabilities: M arrays [N, K]. order: of the members, from `greedy`. labels: [N] int64. blocks: of the rows.
    rule: as of `greedy`.
    """

    def of(chosen: Sequence[int]) -> Sums:
        picked = [log_probabilities[k] for k in chosen]
        return mixture.measure_mean(picked, mixture.alike(rule, chosen), combine, labels, blocks)

    members = range(len(log_probabilities))
    predicted = np.stack([p.argmax(axis=1) for p in log_probabilities])
    disagree = (predicted[:, None] != predicted[None]).sum(axis=2).astype(np.float64)
    return WorthSums(
        best=[of(order[: k + 1]) for k in members],
        without=[of([k for k in members if k != left_out]) for left_out in members] if len(members) > 1 else [],
        disagree=disagree,
    )
