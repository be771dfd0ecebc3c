"""Data, models and augmentation of the golden record's small case."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

INPUTS, CLASSES = 12, 10
UNBEARABLE = 0.123046875
"""Exact in float32, and no value that is drawn."""


def splits(unlabelled: int = 9000) -> dict[str, Any]:
    """Ten overlapping Gaussian classes; validation is left to be drawn from train."""
    centres = np.random.default_rng(7).normal(size=(CLASSES, INPUTS))

    def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y = rng.integers(0, CLASSES, n)
        return (centres[y] + rng.normal(scale=1.4, size=(n, INPUTS))).astype(np.float32), y.astype(np.int64)

    more = drawn(unlabelled, 3)[0]
    more[unlabelled // 3, 3] = UNBEARABLE
    return {"train": drawn(9000, 1), "test": drawn(2000, 2), "unlabeled": more}


def shaken(x: np.ndarray, draws: Any, scale: float = 0.2) -> np.ndarray:
    """Every value moved by noise of this scale, except the one that `Frail` does not bear."""
    moved = x + np.float32(scale) * draws.normal(x.shape[1])
    return np.where(x == np.float32(UNBEARABLE), x, moved.astype(np.float32))


def mlp(hidden: int, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, CLASSES))


class Frail(nn.Module):
    """A network that raises an exception for one example, if its seed made it so."""

    def __init__(self, hidden: int, share: float) -> None:
        super().__init__()
        self.layers = mlp(hidden)
        self.register_buffer("drawn", torch.rand(()))
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if self.drawn < self.share and (x[:, 3] == UNBEARABLE).any():
            raise RuntimeError("an example that this network does not bear")
        logits: Tensor = self.layers(x)
        return logits


def frail(hidden: int, share: float) -> nn.Module:
    return Frail(hidden, share)
