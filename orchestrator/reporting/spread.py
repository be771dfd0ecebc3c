"""The spread of figures over repetitions of a run with other seeds: all that is random in training and splits.

An interval over test examples says how far another test set could move a figure; the spread, how far another training.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel

from orchestrator.reporting.content import between


class SeedFigures(BaseModel):
    """Test accuracies of one repetition."""

    seed: int
    run: str
    """The name of the repetition's run."""
    best_member: float
    ensemble: float
    baseline: float
    student: float
    gain_transferred: float | None
    gain_transferred_interval: tuple[float, float] | None = None
    """Of this repetition alone, as `resolved`; None in reports of earlier versions."""
    resolved: bool | None = None


FIGURES = ("best_member", "ensemble", "baseline", "student")
DIFFERENCES = (("ensemble", "best_member"), ("ensemble", "baseline"), ("student", "baseline"), ("student", "ensemble"))


def rows(seeds: Sequence[SeedFigures], accuracy: str) -> list[list[str]]:
    """A table: each figure and difference by its mean, standard deviation and 95% interval of the mean, and by seed."""
    header = [
        "figure",
        "mean",
        "standard deviation",
        "95% interval of the mean",
        *(f"seed {each.seed}" for each in seeds),
    ]
    found = [header]
    for name in FIGURES:
        found.append(_row(f"{name.replace('_', ' ')}, {accuracy}", [getattr(each, name) for each in seeds], "%", 0.0))
    for one, other in DIFFERENCES:
        values = [getattr(each, one) - getattr(each, other) for each in seeds]
        found.append(_row(f"{one} over {other}".replace("_", " "), values, " points"))
    shares = [each.student / each.ensemble for each in seeds if each.ensemble]
    if len(shares) == len(seeds):
        found.append(_row("student's share of the ensemble's accuracy", shares, "%", 0.0, math.inf))
    return found


def _row(name: str, values: Sequence[float], unit: str, least: float = -1.0, most: float = 1.0) -> list[str]:
    """least, most: what the mean can be, which Student's t does not know."""
    sign = "+" if unit == " points" else ""

    def shown(value: float) -> str:
        return f"{100 * value:{sign}z.2f}{unit if unit == '%' else ''}"

    mean, spread = statistics.fmean(values), statistics.stdev(values)
    bounds = between(interval(values, least, most), shown)
    return [name + ("" if unit == "%" else ", points"), shown(mean), f"{100 * spread:.2f}", bounds, *map(shown, values)]


def interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    """The 95% interval of the mean of a few repetitions, by Student's t, within what the mean can be."""
    from scipy.stats import t

    from workers.evaluation.bootstrap import LEVEL

    half = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return max(mean - half, least), min(mean + half, most)
