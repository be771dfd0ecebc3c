"""Draws test digits of classes such as those that the student never saw, with its answers, for `report.figures`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

COLUMNS = 10
RIGHT, WRONG = "#2e7d32", "#b2182b"


def unseen(
    student: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    classes: Sequence[int],
    rows: int = 4,
    *,
    shape: Sequence[int] = (1, 28, 28),
) -> dict[str, Figure]:
    """The first test digits of `classes`, each with the student's answer below it, and how many it names in all.

    x: [N, pixels] float32. y: [N] class ids. rows: of ten digits. shape: of a digit: channels (1 or 3), height, width.
    """
    of = np.flatnonzero(np.isin(y, list(classes)))
    with torch.no_grad():
        answers = student(torch.from_numpy(x[of].copy())).argmax(dim=-1).numpy()
    figure = Figure(figsize=(0.62 * COLUMNS, 0.82 * rows), dpi=120, layout="constrained")
    for place, (row, answer) in enumerate(zip(of[: COLUMNS * rows], answers, strict=False)):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.imshow(np.moveaxis(x[row].reshape(shape), 0, -1), cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        colour = RIGHT if answer == y[row] else WRONG
        axes.spines[:].set_color(colour)
        axes.set_xlabel(str(answer), color=colour, labelpad=2)
    right = int((answers == y[of]).sum())
    names = ", ".join(str(each) for each in classes)
    return {f"Test digits ({names}), and the student's answers: {right:,} of {len(of):,} are right": figure}
