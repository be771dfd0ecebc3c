"""Base classes of all kinds of targets: columns of tensors with a row per position, and the interface for terms.

`Columns` can be cut, joined and moved without knowledge of their meaning. `Targets` are columns that are softened at
one fixed temperature. Only `Columns.at` compares the T of the student with the T of its targets. Each kind is a
subclass in its own file; `workers.targets.kinds` has its storage format.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.errors import RequestError
from workers.signals import Signal

Index = slice | Tensor | NDArray[np.int64]
AnyColumns = TypeVar("AnyColumns", bound="Columns")


class Columns(ABC):
    """Tensors with one row per position."""

    @property
    @abstractmethod
    def columns(self) -> tuple[Tensor, ...]:
        """The tensors, each [N, ...]."""

    @abstractmethod
    def like(self, columns: Sequence[Tensor]) -> Self:
        """An object of the same kind and settings with other columns."""

    @abstractmethod
    def at(self, temperature: float | None) -> Targets:
        """These targets at T; None: at the stored T. Raises: `RequestError` where they are softened at another T."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """[N] float32 in nats: the lower bound of each row's cross entropy."""

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    def rows(self, index: Index) -> Self:
        """Some of the rows: a view where `index` is a slice."""
        return self.like([column[index] for column in self.columns])

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """All rows as views, cut into consecutive parts of these sizes."""
        cuts = zip(*(column.split(list(sizes)) for column in self.columns), strict=True)
        return [self.like(cut) for cut in cuts]

    def pin_memory(self) -> Self:
        return self.like([column.pin_memory() for column in self.columns])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return self.like([column.to(device, non_blocking=non_blocking) for column in self.columns])


class Targets(Columns):
    """Targets that are softened at `temperature`: a distribution over *events* for each row.

    Events are the classes, or fewer where a kind merges several classes into one event.
    """

    kind: ClassVar[str]
    """Its name in `workers.targets.kinds.KINDS`."""
    offers: ClassVar[frozenset[Signal]]
    """Signals that it offers to terms."""
    probabilities: Tensor
    """Probabilities in the stored dtype."""
    temperature: float

    @abstractmethod
    def events(self, dtype: torch.dtype) -> Tensor:
        """The teachers' probabilities of the events, softened at T: [N, E]. Each row sums to 1 within rounding."""

    @abstractmethod
    def log_events(self, logits: Tensor) -> Tensor:
        """The student's log-probabilities of the same events at the same T: [N, E], finite for finite logits.

        logits: [N, K] float.
        """

    def log_targets(self, dtype: torch.dtype) -> Tensor:
        """log of `events`, [N, E]; a stored 0 counts as half of the smallest positive number (`log_stored`)."""
        return log_stored(self.events(dtype), self.probabilities.dtype)

    def cross_entropy_sum(self, logits: Tensor) -> Tensor:
        """T^2 * CE(events, the student's events), summed over the rows: a scalar.

        Its gradient is T * (softmax(logits / T) - probabilities). Where the student equals the teacher, the gradient is
        zero, but the value is T^2 times the teacher's entropy. logits: [N, K] float.
        """
        log_probabilities = self.log_events(logits)
        return (self.events(log_probabilities.dtype) * log_probabilities).sum() * -(self.temperature**2)

    def logits(self, dtype: torch.dtype) -> Tensor:
        """The teachers' logits up to a constant for each row: [N, K]. Raises: `RequestError` where they are unknown."""
        raise RequestError(
            f"{self.kind} targets have no logits of every class, which the term needs. Expected dense targets: leave "
            "`distillation.top_k` out, or the term."
        )

    def at(self, temperature: float | None) -> Targets:
        if temperature is not None and temperature != self.temperature:
            raise RequestError(
                f"the student asks for soft targets at T = {temperature:g}, and its targets are softened at "
                f"T = {self.temperature:g}. Expected one T: set `distillation.temperature` to {self.temperature:g}, or "
                "compute the soft targets anew."
            )
        return self


LEAST_STORED = {torch.float16: 2.0**-25, torch.float32: 2.0**-31}
"""Half of the smallest positive probability that is stored. For float16 that is its smallest number, for float32 one
step of the fixed point of means (`workers.ensemble`)."""


def log_stored(probabilities: Tensor, stored: torch.dtype) -> Tensor:
    """log of probabilities [..., E] that were stored as `stored`; 0 counts as `LEAST_STORED`, so the result is finite.

    A mean may have smaller numbers than one step, by a geometric mean or in 64 bits. There 0 counts as half of the
    smallest in its row, so that no event that is stored as 0 is likelier than one that is not.
    """
    least = LEAST_STORED.get(stored, LEAST_STORED[torch.float32])
    is_stored = probabilities > 0
    logs = torch.where(is_stored, probabilities, least).log()
    smallest = torch.where(is_stored, logs, torch.inf).amin(dim=-1, keepdim=True)
    return torch.where(is_stored, logs, torch.minimum(logs, smallest - math.log(2)))


def joined(several: Sequence[AnyColumns]) -> AnyColumns:
    """Concatenate targets of one kind."""
    if len(several) == 1:
        return several[0]
    return several[0].like([torch.cat(parts) for parts in zip(*(each.columns for each in several), strict=True)])


def array(values: Tensor) -> NDArray[Any]:
    """The values as a numpy array; does not copy values that are already in main memory."""
    found: NDArray[Any] = values.detach().cpu().numpy()
    return found
