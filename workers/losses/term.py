"""What a term is, what it gets, and what it returns.

Left out: how terms are weighed and added (`workers.training.objective`), and where batches come from
(`workers.training.loader`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from workers.models.outputs import Outputs as Outputs
from workers.signals import Signal
from workers.targets.base import Targets


@dataclass(frozen=True)
class Batch:
    """What b rows of a batch are compared with: all of it, or a piece on one worker.

    labels: [b] int64 class ids, -1 for none. targets: of b rows at the step's T, or None where there are none.
    rows, labelled_rows: counts of the whole batch, over all workers and pieces: what a term's sum is divided by.
    """

    labels: Tensor
    targets: Targets | None
    rows: int
    labelled_rows: int

    @property
    def soft(self) -> Targets:
        """The targets. Raises: ValueError where there are none."""
        if self.targets is None:
            raise ValueError("the batch has no soft targets; expected some for a term that needs them")
        return self.targets


Sum = tuple[Tensor, int]
"""The sum over the rows of a piece, a scalar, and the count of the whole batch to divide it by."""


def share(of: Sum, weight: float) -> Tensor:
    """What a weighted term of a piece adds to the loss of its batch: a scalar."""
    value, count = of
    return value * (weight / max(count, 1))


class Term(ABC):
    """One term of the objective. Settings are arguments of the constructor."""

    needs: frozenset[Signal] = frozenset()
    """What the batch must have for it."""

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        """The sum over the rows of this piece, and `batch.rows` or `batch.labelled_rows`.

        Pieces add up: sum / count of all pieces is the mean over the whole batch. A count of 0 goes with a sum of 0.
        """

    def entropy_weight(self, temperature: float) -> float:
        """How many times the targets' entropy the term is at its minimum: 0 for a divergence.

        The history leaves so much out, so that a term is reported as 0 where the student equals the teacher.
        """
        return 0.0


class Function(Term):
    """Any callable as a term, such as one of the user's own that is no subclass of `Term`."""

    def __init__(self, function: Callable[[Outputs, Batch], Sum]) -> None:
        self.function = function
        self.needs = frozenset(getattr(function, "needs", ()))

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        return self.function(outputs, batch)
