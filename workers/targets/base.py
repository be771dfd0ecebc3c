"""What every kind of targets is: columns of tensors with a row for each position, and what terms ask of them.

`Columns` can be cut, joined and moved without knowing what they mean. `Targets` are columns that are softened at one
temperature, their own. `Columns.at` is the one place where the T that the student asks for meets the T that its targets
carry. A kind is a subclass in a file of its own, and says how it is stored in `workers.targets.kinds`.
"""

from __future__ import annotations

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
    """Tensors with a row for each position."""

    @property
    @abstractmethod
    def columns(self) -> tuple[Tensor, ...]:
        """The tensors, each [N, ...]."""

    @abstractmethod
    def like(self, columns: Sequence[Tensor]) -> Self:
        """The same kind, with the same settings, made of other columns."""

    @abstractmethod
    def at(self, temperature: float | None) -> Targets:
        """These targets at T; None: at their own. Raises: `RequestError` where they are softened at another T."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """[N] float32 in nats: what the cross entropy of a row cannot fall below."""

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    def rows(self, index: Index) -> Self:
        """Some of the rows: a view where `index` is a slice."""
        return self.like([column[index] for column in self.columns])

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """All rows, cut into so many at a time; views."""
        cuts = zip(*(column.split(list(sizes)) for column in self.columns), strict=True)
        return [self.like(cut) for cut in cuts]

    def pin_memory(self) -> Self:
        return self.like([column.pin_memory() for column in self.columns])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return self.like([column.to(device, non_blocking=non_blocking) for column in self.columns])


class Targets(Columns):
    """Targets that are softened at `temperature`: a distribution over *events* for each row.

    Events are the classes, or fewer where a kind keeps several classes as one.
    """

    kind: ClassVar[str]
    """Its name in `workers.targets.kinds.KINDS`."""
    offers: ClassVar[frozenset[Signal]]
    """What terms may ask of it."""
    probabilities: Tensor
    """As they are stored."""
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
        """log of `events`, [N, E], with a stored 0 counted as half of the least number that could have been stored."""
        return log_stored(self.events(dtype), self.probabilities.dtype)

    def cross_entropy_sum(self, logits: Tensor) -> Tensor:
        """T^2 * CE(events, the student's events), summed over the rows: a scalar.

        Its gradient is T * (softmax(logits / T) - probabilities): zero where the student equals the teacher, although
        the value there is the teacher's entropy and not zero. logits: [N, K] float.
        """
        log_probabilities = self.log_events(logits)
        return (self.events(log_probabilities.dtype) * log_probabilities).sum() * -(self.temperature**2)

    def logits(self, dtype: torch.dtype) -> Tensor:
        """The teachers' logits up to a constant for each row: [N, K]. Raises: `RequestError` where they are unknown."""
        raise RequestError(f"{self.kind} targets do not have the logits of every class.")

    def at(self, temperature: float | None) -> Targets:
        if temperature is not None and temperature != self.temperature:
            raise RequestError(
                f"the student asks for soft targets at T = {temperature:g}, and its targets are softened at "
                f"T = {self.temperature:g}. Expected one T: set `distillation.temperature` to {self.temperature:g}, or "
                "compute the soft targets anew."
            )
        return self


LEAST_STORED = {torch.float16: 2.0**-25, torch.float32: 2.0**-31}
"""Half of the least positive probability that is stored: of float16 its least number, of float32 one step of the fixed
point in which means are taken (`workers.ensemble`)."""


def log_stored(probabilities: Tensor, stored: torch.dtype) -> Tensor:
    """log of probabilities that were stored as `stored`; 0 counts as `LEAST_STORED`, so the result is finite."""
    least = LEAST_STORED.get(stored, LEAST_STORED[torch.float32])
    return torch.where(probabilities > 0, probabilities, least).log()


def joined(several: Sequence[AnyColumns]) -> AnyColumns:
    """Targets of one kind, one after another."""
    if len(several) == 1:
        return several[0]
    return several[0].like([torch.cat(parts) for parts in zip(*(each.columns for each in several), strict=True)])


def array(values: Tensor) -> NDArray[Any]:
    """The values as a numpy array in main memory, without a copy where they lie there."""
    found: NDArray[Any] = values.detach().cpu().numpy()
    return found
