"""The report's figures: training curves, accuracy by members and by latency, reliability, confusion of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.reporting.report import Report, System

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from workers.training.loop import Epoch

OVERVIEW = "overview.png"
"""All figures side by side, as wide as a page."""
DRAWN_CLASSES, NUMBERED_CLASSES, MOST_LETTERS = 60, 20, 16
"""Most classes of a confusion matrix that is drawn, and of one with numbers in it; characters of a class's name."""
COLOURS = {
    "member": "#9aa5b1",
    "ensemble": "#1b6ca8",
    "baseline": "#c2571a",
    "student": "#2e7d32",
    "further": "#7b4fa3",
}


def figures(report: Report, histories: Mapping[str, Sequence[Epoch]]) -> dict[str, Figure]:
    """Each figure by its file name. histories: the epochs of each system that the run trained."""
    curves, drawn = _subplots(2)
    training_curves(drawn[0], drawn[1], report, histories)
    members, drawn = _subplots(1)
    accuracy_by_members(drawn[0], report)
    reliable, drawn = _subplots(1)
    reliability(drawn[0], report)
    overview, drawn = _subplots(4, width=3.1, dpi=72)
    accuracy_by_members(drawn[0], report)
    training_curves(drawn[1], drawn[2], report, histories)
    reliability(drawn[3], report)
    speed, drawn = _subplots(1)
    accuracy_by_latency(drawn[0], report)
    found = {
        OVERVIEW: overview,
        "training_curves.png": curves,
        "accuracy_by_members.png": members,
        "accuracy_by_latency.png": speed,
        "reliability.png": reliable,
    }
    if 0 < len(report.system("student").confusion) <= DRAWN_CLASSES:
        found["confusion.png"], drawn = _subplots(2)
        confusion(drawn[0], report, "ensemble")
        confusion(drawn[1], report, "student")
    return found


def training_curves(validation: Axes, loss: Axes, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
    """Validation accuracy by epoch of baseline and student, and their training loss beside it.

    Dashed: the accuracy on the labelled examples that a system learns from, where it was measured.
    """
    for role in ("baseline", "student"):
        history = histories[role]
        epochs = [epoch.epoch + 1 for epoch in history]
        learned = [(e.epoch + 1, e.train_accuracy) for e in history if e.train_accuracy is not None]
        loss.plot(epochs, [e.train_loss for e in history], "-o", ms=3, color=COLOURS[role], label=role)
        validation.plot(epochs, [e.validation_accuracy for e in history], "-o", ms=3, color=COLOURS[role], label=role)
        if learned:
            dashed = f"{role}, on what it learns from"
            validation.plot(*zip(*learned, strict=True), "--", lw=1, color=COLOURS[role], label=dashed)
    validation.set(title="Validation", xlabel="epoch", ylabel=f"validation {report.accuracy_name}")
    loss.set(title="Training loss", xlabel="epoch", ylabel="loss, nats", yscale="log")
    validation.legend()
    for axes in (validation, loss):
        _count_by_ones(axes)


def accuracy_by_members(axes: Axes, report: Report) -> None:
    """Accuracy by number of members, with the baseline and the student for comparison.

    Of any members, the mean; and of the best by validation first, with its 95% interval.
    """
    axes.plot(
        [p.members for p in report.curve],
        [p.accuracy for p in report.curve],
        "-o",
        ms=4,
        color=COLOURS["ensemble"],
        label="any members" if report.worth else "ensemble",
    )
    if report.worth:
        sizes = range(1, len(report.worth) + 1)
        axes.plot(sizes, [w.accuracy for w in report.worth], "s:", ms=4, color=COLOURS["ensemble"], label="best first")
        bounds = [w.accuracy_interval or (w.accuracy, w.accuracy) for w in report.worth]
        low, high = zip(*bounds, strict=True)
        axes.fill_between(sizes, low, high, color=COLOURS["ensemble"], alpha=0.12, lw=0)
    for role in ("baseline", "student"):
        value = report.system(role).test.accuracy
        axes.axhline(value, color=COLOURS[role], ls="--", label=role)
    axes.set(title="Accuracy by number of members", xlabel="members", ylabel=f"test {report.accuracy_name}")
    _count_by_ones(axes)
    axes.legend()


def accuracy_by_latency(axes: Axes, report: Report) -> None:
    """Accuracy against the 99th percentile of the latency of one example, with the limit where the report has one."""
    seen = set()
    for system in report.systems:
        label = None if system.role in seen else system.role
        seen.add(system.role)
        axes.plot(system.latency_ms.p99, system.test.accuracy, "o", ms=6, color=COLOURS[system.role], label=label)
    if report.latency_ms is not None:
        axes.axvline(report.latency_ms, color="black", ls=":", label=f"{report.latency_ms:g} ms")
    axes.set(
        title="Accuracy by latency",
        xlabel="p99 of one example, ms",
        ylabel=f"test {report.accuracy_name}",
        xscale="log",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()


def reliability(axes: Axes, report: Report) -> None:
    """Accuracy against confidence: below the diagonal a system is overconfident (Guo et al. 2017)."""
    axes.plot([0, 1], [0, 1], color="black", lw=0.8, label="calibrated")
    for role in ("ensemble", "baseline", "student"):
        system = report.system(role)
        _bins(axes, system)
    axes.set(title="Reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def confusion(axes: Axes, report: Report, role: Literal["ensemble", "student"]) -> None:
    """Of the test examples of each class (rows), the share that a system takes for each class (columns)."""
    counts = np.array(report.system(role).confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0.0, vmax=1.0)  # the root shows small shares
    names = [_drawable(label, k) for k, label in enumerate(report.labels)] or [str(k) for k in range(len(counts))]
    for row, column in zip(*np.nonzero(counts), strict=True):
        if len(counts) <= NUMBERED_CLASSES:
            colour = "white" if shares[row, column] > 0.4 else "black"
            axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(title=f"Confusion, {role}", xlabel="predicted", ylabel="label")
    axes.grid(visible=False)


def _drawable(label: str, k: int) -> str:
    """The name of a class, shortened; its number where the font lacks a character of it."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    if not all(font.get_char_index(ord(letter)) for letter in label):
        return str(k)
    short = label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 1]}…"
    return short.replace("$", r"\$")  # else a formula


def _bins(axes: Axes, system: System) -> None:
    seen = system.calibration
    points = [(c, a) for c, a, n in zip(seen.confidence, seen.accuracy, seen.examples, strict=True) if n]
    axes.plot(
        [c for c, _ in points],
        [a for _, a in points],
        "-o",
        ms=4,
        color=COLOURS[system.role],
        label=f"{system.name}, ECE {system.test.ece:.3f}",
    )


def _count_by_ones(axes: Axes) -> None:
    """Use integer ticks, since epochs and members are whole."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _subplots(count: int, width: float = 5.2, dpi: int = 120) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, 3.8), layout="constrained", dpi=dpi)
    axes = [figure.add_subplot(1, count, k + 1) for k in range(count)]
    for one in axes:
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes
