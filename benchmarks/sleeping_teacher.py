"""A teacher on a simulated accelerator: it sleeps for as long as the accelerator would compute.

This module does not import torch, so that a hundred teachers fit on a small machine.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import ray
from numpy.typing import NDArray

from workers import processes


@ray.remote(num_cpus=0.01)
class SleepingTeacher:
    """Has the interface of `workers.inference.actor.TeacherActor`, and returns the same random numbers for each batch.

    batch_s: seconds for `batch` examples.
    """

    def __init__(self, sizes: list[int], classes: int, batch: int, batch_s: float) -> None:
        self.sizes, self.batch, self.batch_s = sizes, batch, batch_s
        drawn = np.random.default_rng(0).random((max(sizes), classes), np.float32)
        self.answers = drawn / drawn.sum(axis=1, keepdims=True) * 2.0**30
        self.shares: dict[float, NDArray[np.int32]] = {}
        """Precomputed outputs by weight, since an accelerator would compute them without the CPU."""

    def ready(self, stack: bool | None) -> SimpleNamespace:
        return SimpleNamespace(stacked=False, where=processes.here(), part_s=1.0, probes={})

    @ray.method(num_returns=2)
    def soften(
        self, part: int, temperature: float, weights: dict[str, float], combine: str, ahead: tuple[int, ...] = ()
    ) -> tuple[int, NDArray[np.int32]]:
        """This teacher's contribution in fixed point: [rows, classes] int32."""
        rows, share = self.sizes[part], sum(weights.values())
        if share not in self.shares:
            self.shares[share] = (self.answers * share).astype(np.int32)
        time.sleep(rows / self.batch * self.batch_s)
        return rows, self.shares[share][:rows]
