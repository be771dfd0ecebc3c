"""Draws a soft decision tree of images: its filters and leaves, and the path of one example (Frosst and Hinton 2017).

The figures need matplotlib alone, and no display: `tree_figure(...).savefig("tree.png")`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

if TYPE_CHECKING:
    from models import Tree

LEFT, RIGHT, EDGE = "#2166ac", "#b2182b", "#9aa5b1"
SIGNED = "RdBu_r"
"""Colours of a filter: red pixels send to the right, blue ones to the left, white ones do not count."""
TOP, OTHERS, WRONG = "#2e7d32", "#c5ccd3", "#b2182b"
LETTER, MOST_LINES = 0.06, 4
"""Width of a letter on a branch in inches; lines of classes there, instead of more of which their number is shown."""


def figures(student: Tree, x: np.ndarray, y: np.ndarray, example: int = 0) -> dict[str, Figure]:
    """The tree, and the path of one test example, for `report.figures`. x: [N, inputs] float32. y: [N] class ids."""
    labels = [str(k) for k in range(student.leaves.shape[1])]
    return {
        "The tree": tree_figure(student, labels),
        f"The path of test example {example}": path_figure(
            student, torch.from_numpy(x[example].copy()), int(y[example])
        ),
    }


def tree_figure(module: Tree, labels: Sequence[str], levels: int = 4) -> Figure:
    """The filters of a tree's upper nodes, and the classes below them. labels: the names of the classes.

    levels: of filters, at most the tree's depth. Bars show the distribution of a leaf, or where the tree is deeper the
    mean of the leaves below. A branch shows the most likely classes of all its leaves.
    """
    levels = min(levels, module.depth)
    answers = module.leaves.detach().softmax(dim=-1)
    width, row = max(6.0, 0.82 * 2**levels), 1.5
    height = row * (levels + 1) + 0.5
    figure = Figure(figsize=(width, height), dpi=120)
    behind = _canvas(figure, width, height)
    for depth in range(levels):
        below = answers.argmax(dim=-1).view(2 ** (depth + 1), -1)
        for place in range(2**depth):
            x, y = width * (place + 0.5) / 2**depth, height - row * (depth + 0.5) - 0.3
            for side, colour in ((0, LEFT), (1, RIGHT)):
                child = width * (2 * place + side + 0.5) / 2 ** (depth + 1)
                behind.plot([x, child], [y, y - row], color=EDGE, lw=1.2, zorder=0)
                text = _classes(labels, below[2 * place + side].tolist(), width / 2 ** (depth + 2))
                _note(behind, ((x + child) / 2, y - row / 2), text, colour)
            axes = _placed(figure, (x, y), 0.92, 0.92)
            _draw_filter(axes, _image(module.filters.weight.detach()[2**depth - 1 + place]))
    for place, answer in enumerate(answers.view(2**levels, -1, len(labels)).mean(dim=1)):
        axes = _placed(figure, (width * (place + 0.5) / 2**levels, 0.75), 0.7, 0.55)
        _draw_answer(axes, answer, labels)
    behind.text(0.1, height - 0.25, "red pixels: to the right", color=RIGHT, fontsize=8)
    behind.text(0.1, height - 0.45, "blue pixels: to the left", color=LEFT, fontsize=8)
    return figure


def path_figure(module: Tree, x: Tensor, label: int, labels: Sequence[str] | None = None) -> Figure:
    """The path of one example to its most probable leaf: its filters, and each filter times the example.

    x: [inputs] float32. label: its class. labels: the names of the classes; None: their numbers.
    """
    names = [str(k) for k in range(module.leaves.shape[1])] if labels is None else labels
    with torch.no_grad():
        decided, reached = module.decisions(x[None])[0], module.paths(x[None])[0, -len(module.leaves) :]
    leaf = int(reached.argmax())
    answer = module.leaves.detach()[leaf].softmax(dim=-1)
    width, height = 1.42 * (module.depth + 2), 3.3
    figure = Figure(figsize=(width, height), dpi=120)
    behind = _canvas(figure, width, height)
    upper, lower, column = 1.95, 0.7, 1.42
    shown = _placed(figure, (0.5 * column, upper), 1.1, 1.1)
    shown.imshow(_image(x), cmap="gray_r")
    shown.set_title("the example", fontsize=9)
    for depth, (node, after) in enumerate(pairwise(path_to(leaf, module.depth))):
        centre, right = (depth + 1.5) * column, after == 2 * node + 2
        filters = module.filters.weight.detach()[node]
        probability = float(torch.sigmoid(decided[node] if right else -decided[node]))
        top = _placed(figure, (centre, upper), 1.1, 1.1)
        _draw_filter(top, _image(filters))
        top.set_title(f"{'right' if right else 'left'} {probability:.0%}", fontsize=9, color=RIGHT if right else LEFT)
        _draw_filter(_placed(figure, (centre, lower), 1.1, 1.1), _image(filters * x))
        _arrow(behind, centre - column / 2, upper)
    _arrow(behind, (module.depth + 1) * column, upper)
    _draw_answer(_placed(figure, ((module.depth + 1.5) * column, upper), 1.1, 1.1), answer, names, label)
    behind.text(0.5 * column, lower, "filter times\nexample", ha="center", va="center", fontsize=9, color="0.35")
    chance = float(reached[leaf].exp())
    title = f"{names[label]}, answered as {names[int(answer.argmax())]} by a path of probability {chance:.0%}"
    behind.text(width / 2, height - 0.25, title, ha="center", fontsize=10)
    return figure


def path_to(leaf: int, depth: int) -> list[int]:
    """The nodes on the path from the root to a leaf, both included. leaf: its number among leaves, from the left."""
    found = [leaf + 2**depth - 1]
    while found[-1]:
        found.append((found[-1] - 1) // 2)
    return found[::-1]


def _canvas(figure: Figure, width: float, height: float) -> Axes:
    """Invisible axes over the whole figure, in inches, behind all others."""
    axes = figure.add_axes((0, 0, 1, 1), zorder=-1)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def _placed(figure: Figure, centre: tuple[float, float], width: float, height: float) -> Axes:
    """Axes without ticks at a place and of a size in inches."""
    whole = figure.get_size_inches()
    low = (centre[0] - width / 2) / whole[0], (centre[1] - height / 2) / whole[1]
    axes = figure.add_axes((*low, width / whole[0], height / whole[1]))
    axes.set(xticks=[], yticks=[])
    return axes


def _image(row: Tensor) -> np.ndarray:
    """A row of pixels as a square image."""
    side = math.isqrt(len(row))
    image: np.ndarray = row.detach().cpu().numpy().reshape(side, side)
    return image


def _draw_filter(axes: Axes, image: np.ndarray) -> None:
    """Signed pixels, white at 0; few extreme ones do not pale the others."""
    most = float(np.quantile(np.abs(image), 0.99)) or 1.0
    axes.imshow(image, cmap=SIGNED, vmin=-most, vmax=most)
    for spine in axes.spines.values():
        spine.set_color(EDGE)


def _draw_answer(axes: Axes, answer: Tensor, labels: Sequence[str], label: int | None = None) -> None:
    """A leaf's distribution as bars, with its most likely class below. label: the true class, where it is known."""
    top = int(answer.argmax())
    colour = TOP if label is None or label == top else WRONG
    bars = axes.bar(range(len(answer)), answer.tolist(), color=OTHERS, width=0.85)
    bars[top].set_color(colour)
    axes.set(xlim=(-0.7, len(answer) - 0.3), ylim=(0, 1))
    axes.set_xlabel(labels[top], fontsize=13, color=colour, labelpad=3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.patch.set_alpha(0.9)


def _classes(labels: Sequence[str], found: Iterable[int], width: float) -> str:
    """The names of some classes, in lines of about `width` inches, or how many classes there are."""
    kinds = sorted(set(found))
    lines = textwrap.wrap(" ".join(labels[k] for k in kinds), max(5, int(width / LETTER)))
    return "\n".join(lines) if len(lines) <= MOST_LINES else f"{len(kinds)}\nclasses"


def _note(axes: Axes, place: tuple[float, float], text: str, colour: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text(*place, text, ha="center", va="center", fontsize=7, color=colour, bbox=box)


def _arrow(axes: Axes, x: float, y: float) -> None:
    axes.annotate("", (x + 0.13, y), (x - 0.13, y), arrowprops={"arrowstyle": "->", "color": EDGE, "lw": 1.5})
