"""The interface of loss terms: their inputs and results.

`workers.training.objective` weighs and adds terms, and `workers.training.loader` builds the batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from workers.errors import RequestError
from workers.models.outputs import Outputs as Outputs
from workers.signals import Signal
from workers.targets.base import Targets


@dataclass(frozen=True)
class Batch:
    """The labels and targets of b rows: a whole batch, or a piece of it on one worker.

    labels: [b] int64 class ids, -1 for none. targets: of b rows at the step's T; None without soft targets.
    rows, labelled_rows, examples: counts of the whole batch, over all workers and pieces, by which a term's sum is
    divided. beside: the outputs of one member for these examples, for terms that need its hidden states.
    """

    labels: Tensor
    targets: Targets | None
    rows: int
    labelled_rows: int
    examples: int = field(default=0, kw_only=True)
    beside: Outputs | None = field(default=None, kw_only=True)

    @property
    def soft(self) -> Targets:
        """The soft targets. Raises: ValueError where the batch has none."""
        if self.targets is None:
            raise ValueError("the batch has no soft targets; expected some for a term that needs them")
        return self.targets

    @property
    def teacher(self) -> Outputs:
        """The outputs of one member. Raises: ValueError where the batch has none."""
        if self.beside is None:
            raise ValueError("the batch has no outputs of a member; expected some for a term that needs them")
        return self.beside


Sum = tuple[Tensor, int]
"""The sum over the rows of a piece, a scalar, and the count of the whole batch to divide it by."""


def share(of: Sum, weight: float) -> Tensor:
    """The contribution of a weighted term of a piece to the loss of its batch: a scalar."""
    value, count = of
    return value * (weight / max(count, 1))


def unfit(term: str, problem: str) -> RequestError:
    """The error of a term that cannot do what is asked. term: its name in the configuration."""
    return RequestError(f"distillation.objective: the term '{term}' {problem}")


class Term(ABC):
    """One term of the objective. Settings are arguments of the constructor."""

    needs: frozenset[Signal] = frozenset()
    """The signals that the batch must have."""
    module: nn.Module | None = None
    """Learned parameters of the term, such as a projection. Training optimises and checkpoints them; the student's
    weights do not have them."""
    version: int = 0
    """Raised where the meaning of the term changes, so that no earlier training passes for one by it."""
    whole_batch: bool = False
    """Whether the term relates examples of a batch to each other, so that no batch is computed in pieces."""
    wanted: Mapping[str, Collection[int]] | None = None
    """The layers of the member that the term compares, by field of `Outputs`, after `prepare`; None: all."""

    def prepare(self, student: Outputs, teacher: Outputs) -> None:  # noqa: B027  # most terms have nothing to settle
        """Settle what depends on the shapes of both, before the training. Called with outputs of a few examples.

        Raises: `RequestError` where they cannot be compared.
        """

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        """The sum over the rows or examples of this piece, and `batch.rows`, `labelled_rows` or `examples`.

        Pieces add up: sum / count of all pieces is the mean over the whole batch. A count of 0 goes with a sum of 0.
        """

    def entropy_weight(self, temperature: float) -> float:
        """The term's minimum as a multiple of the targets' entropy: 0 for a divergence.

        The history subtracts this minimum, so that a term is reported as 0 where the student equals the teacher.
        """
        return 0.0


class Function(Term):
    """Any callable as a term, such as a user's callable that is not a subclass of `Term`."""

    def __init__(self, function: Callable[[Outputs, Batch], Sum]) -> None:
        self.function = function
        self.needs = frozenset(getattr(function, "needs", ()))

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        return self.function(outputs, batch)
