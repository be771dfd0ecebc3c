"""Targets with a probability for every class: the default kind.

Rows sum to 1 within the rounding of the stored dtype. A term converts them to the dtype of the student's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from workers.signals import Signal
from workers.targets.base import Targets, array


@dataclass(frozen=True)
class Dense(Targets):
    """probabilities: [N, K] float16, float32 or float64, softened at `temperature`."""

    probabilities: Tensor
    temperature: float = 1.0

    kind: ClassVar[str] = "dense"
    offers: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES, Signal.LOGITS})

    @property
    def columns(self) -> tuple[Tensor, ...]:
        return (self.probabilities,)

    def like(self, columns: Sequence[Tensor]) -> Dense:
        return Dense(columns[0], self.temperature)

    def events(self, dtype: torch.dtype) -> Tensor:
        return self.probabilities.to(dtype)

    def log_events(self, logits: Tensor) -> Tensor:
        return functional.log_softmax(logits / self.temperature, dim=-1)

    def logits(self, dtype: torch.dtype) -> Tensor:
        """T * log p.

        With `combine: geometric` it is the weighted mean of the members' logits, up to a constant; with `arithmetic`
        the logits of the mean prediction. At a low T, small probabilities are stored as 0, so their logits are lost.
        """
        return self.log_targets(dtype) * self.temperature

    def entropy(self) -> Tensor:
        p = np.maximum(array(self.probabilities).astype(np.float32), np.finfo(np.float32).tiny)
        found: np.ndarray = -np.einsum("nk,nk->n", p, np.log(p))
        return torch.from_numpy(found)
