"""A teacher on an accelerator that is not there: it answers after the time that the accelerator would take.

Imports no torch, so that a hundred of them fit on a small machine.
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
    """Answers as `workers.inference.actor.TeacherActor` does, always the same random numbers, `batch_s` a `batch`."""

    def __init__(self, sizes: list[int], classes: int, batch: int, batch_s: float) -> None:
        self.sizes, self.batch, self.batch_s = sizes, batch, batch_s
        drawn = np.random.default_rng(0).random((max(sizes), classes), np.float32)
        self.answers = drawn / drawn.sum(axis=1, keepdims=True) * 2.0**30
        self.shares: dict[float, NDArray[np.int32]] = {}
        """What it answers with, by its weight: an accelerator's driver would spend no CPU on it."""

    def ready(self, stack: bool | None) -> SimpleNamespace:
        return SimpleNamespace(stacked=False, where=processes.here(), part_s=1.0, probes={})

    @ray.method(num_returns=2)
    def soften(
        self, part: int, temperature: float, weights: dict[str, float], combine: str, ahead: tuple[int, ...] = ()
    ) -> tuple[int, NDArray[np.int32]]:
        """[rows, classes] int32: this teacher's share in fixed point."""
        rows, share = self.sizes[part], sum(weights.values())
        if share not in self.shares:
            self.shares[share] = (self.answers * share).astype(np.int32)
        time.sleep(rows / self.batch * self.batch_s)
        return rows, self.shares[share][:rows]
