"""Members' logits before softening: the columns for a schedule of T.

A schedule needs soft targets at many temperatures. So the run stores the logits of each member (`member_logits`). At
each step, the student averages them at the step's T with the arithmetic of the teachers' pass: the result is
bit-identical to a store at that T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers import ensemble, mixture_weights
from workers.specs.members import ExampleRule
from workers.targets.base import Columns
from workers.targets.dense import Dense


@dataclass(frozen=True)
class MemberMixture(Columns):
    """Logits of members with their weights.

    logits: [N, M, K] float32 of M members. weights: [N, M] float64, each row summing to 1; 0 for a member that has no
    logits for the row. combine, bits: the rule of the mean and its fixed point, as in `workers.ensemble`. weighting:
    the rule for each example (`workers.mixture_weights`); `weights` then only show which members have logits.
    """

    logits: Tensor
    weights: Tensor
    combine: str = "arithmetic"
    bits: Literal[32, 64] = 32
    weighting: ExampleRule | None = None

    @property
    def columns(self) -> tuple[Tensor, ...]:
        return (self.logits, self.weights)

    def like(self, columns: Sequence[Tensor]) -> MemberMixture:
        return MemberMixture(columns[0], columns[1], self.combine, self.bits, self.weighting)

    def at(self, temperature: float | None) -> Dense:
        """The members' mean at T, in float32. Raises: ValueError for None, since logits have no T of their own."""
        if temperature is None:
            raise ValueError("members' logits are not softened yet; expected a temperature")
        rows, members, classes = self.logits.shape
        if self.weighting is not None:
            each, present = self.logits.transpose(0, 1), (self.weights > 0).transpose(0, 1)
            mean = mixture_weights.soft_mean(self.weighting, each, temperature, self.combine, present)
            return Dense(mean, temperature)
        softened = torch.softmax(self.logits / temperature, dim=-1).view(rows * members, classes)
        dtype = ensemble.FIXED_POINT[self.bits]
        parts = ensemble.contribution(softened, self.weights.reshape(-1), self.combine, dtype)
        total = parts.view(rows, members, classes).sum(dim=1, dtype=dtype)
        return Dense(ensemble.mean32(total, self.combine), temperature)

    def entropy(self) -> Tensor:
        """Zeros, since the entropy depends on T. The targets that `at` returns have theirs."""
        return torch.zeros(len(self))


def row_bytes(members: int, classes: int) -> int:
    """Bytes of a row in a worker's memory, its id (8) and entropy (4) included."""
    return members * (4 * classes + 8) + 12
