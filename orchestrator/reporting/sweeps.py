"""The outcome of a sweep: a row for each run, and a heat map over two keys.

The best run is the one whose student is best on the validation split; test figures stand beside it and choose nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from orchestrator.reporting.content import Rows
from orchestrator.reporting.report import COMPARED, Bounds, Report, gain_transferred
from orchestrator.reporting.spread import interval
from orchestrator.reporting.tables import accuracies, accuracy_bounds, hours, number, percent, short_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TITLES = {"student": "test accuracy of the student, %", "gain_transferred": "gain transferred, %"}
"""Titles of heat maps, by their figure."""
RECORD, MAPS = "sweep.json", {figure: f"{figure}.png" for figure in TITLES}
"""Files in a sweep's folder: its figures, and its heat maps by theirs."""


class SweptRun(BaseModel):
    """One run of a sweep; with `seeds` the means over its repetitions. problem: why it has no figures; empty for a
    complete one."""

    run: str
    values: dict[str, Any]
    """The value of each key that varies."""
    problem: str = ""
    validation_accuracy: float | None = None
    """Of the student."""
    student: float | None = None
    student_interval: Bounds | None = None
    """95%, by resampling test examples; of several repetitions that of their mean, by Student's t."""
    baseline: float | None = None
    ensemble: float | None = None
    gain_transferred: float | None = None
    may_be_chance: bool = False
    """Whether the ensemble's gain over the baseline is not resolved: over test examples, or over repetitions."""
    parameters: int | None = None
    latency_ms_p99: float | None = None
    member_core_hours: float | None = None
    """Of the trainings of all members, in this run or an earlier one."""
    member_gpu_hours: float | None = None

    def shown(self, figure: str) -> float | None:
        """A figure of the table or a heat map; None where it is not known, or a share of a gain that may be chance."""
        value: float | None = getattr(self, figure)
        return None if figure == "gain_transferred" and self.may_be_chance else value


class Sweep(BaseModel):
    """A sweep. best: the name of the run that is best on validation; None where no run is complete."""

    name: str
    keys: list[str]
    runs: list[SweptRun]
    best: str | None


def swept(run: str, values: dict[str, Any], repetitions: Sequence[Report], problem: str = "") -> SweptRun:
    """A run's row. repetitions: its report, and those of its repetitions with other seeds; none where it failed with
    `problem`."""
    if not repetitions:
        return SweptRun(run=run, values=values, problem=problem)
    students = [each.system("student") for each in repetitions]
    costs = [each.cost.get("members") for each in repetitions]
    of_roles = {role: [each.system(role).test.accuracy for each in repetitions] for role in COMPARED}
    accuracy = {role: fmean(several) for role, several in of_roles.items()}
    return SweptRun(
        run=run,
        values=values,
        validation_accuracy=_mean([each.validation_accuracy for each in students]),
        student=accuracy["student"],
        student_interval=(
            interval(of_roles["student"], 0.0, 1.0) if len(students) > 1 else students[0].test.accuracy_interval
        ),
        baseline=accuracy["baseline"],
        ensemble=accuracy["ensemble"],
        gain_transferred=gain_transferred(accuracy["baseline"], accuracy["ensemble"], accuracy["student"]),
        may_be_chance=_may_be_chance(repetitions),
        parameters=students[0].parameters,
        latency_ms_p99=fmean(each.latency_ms.p99 for each in students),
        member_core_hours=_mean([None if each is None else each.core_hours for each in costs]),
        member_gpu_hours=_mean([None if each is None else each.gpu_hours for each in costs]),
    )


def _may_be_chance(repetitions: Sequence[Report]) -> bool:
    """Whether the ensemble's gain over the baseline may be chance; of repetitions their mean, by Student's t."""
    if len(repetitions) == 1:
        return accuracies(repetitions[0]).may_be_chance
    gains = [each.system("ensemble").test.accuracy - each.system("baseline").test.accuracy for each in repetitions]
    low, high = interval(gains)
    return low <= 0 <= high


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is not known."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def collected(name: str, keys: Sequence[str], runs: Sequence[SweptRun]) -> Sweep:
    """A sweep with its best run."""
    complete = [each for each in runs if each.validation_accuracy is not None]
    best = max(complete, key=lambda each: each.validation_accuracy or 0.0, default=None)
    return Sweep(name=name, keys=list(keys), runs=list(runs), best=None if best is None else best.run)


def rows(sweep: Sweep) -> Rows:
    """The table, a row for each run in the order of the sweep. The best run is best on validation."""
    figures = ["validation", "student", "95% interval", "baseline", "ensemble", "gain transferred", "size", "p99 ms"]
    gpu = any(each.member_gpu_hours for each in sweep.runs)
    figures.append(f"members, {'GPU' if gpu else 'core'} h")
    found = [[*_columns(sweep.keys, [*figures, "note"]), *figures, "note"]]
    for each in sweep.runs:
        values = [written(each.values[key]) for key in sweep.keys]
        if each.problem:
            found.append([*values, *["-"] * len(figures), f"failed: {each.problem}"])
            continue
        found.append(
            [
                *values,
                number("accuracy", each.validation_accuracy),
                number("accuracy", each.student),
                accuracy_bounds(each.student_interval),
                number("accuracy", each.baseline),
                number("accuracy", each.ensemble),
                "not resolved" if each.may_be_chance else percent(each.gain_transferred),
                "-" if each.parameters is None else short_count(each.parameters),
                "-" if each.latency_ms_p99 is None else f"{each.latency_ms_p99:.2f}",
                hours(each.member_gpu_hours if gpu else each.member_core_hours),
                "best" if each.run == sweep.best else "",
            ]
        )
    return found


def _columns(keys: Sequence[str], others: Sequence[str]) -> list[str]:
    """The last words of the keys, and keys in full where a word would name two columns."""
    short = [key.rpartition(".")[2] for key in keys]
    return [key if (*short, *others).count(word) > 1 else word for key, word in zip(keys, short, strict=True)]


def written(value: Any) -> str:
    """A value of a key as text."""
    return value if isinstance(value, str) else json.dumps(value)


def _cells(sweep: Sweep, figure: str) -> dict[tuple[str, str], float]:
    """A figure by the values of the first two keys, the mean over the runs that have it."""
    found: dict[tuple[str, str], list[float]] = {}
    for each in sweep.runs:
        value = each.shown(figure)
        if value is not None:
            first, second = (written(each.values[key]) for key in sweep.keys[:2])
            found.setdefault((first, second), []).append(value)
    return {cell: fmean(values) for cell, values in found.items()}


def heat_map(sweep: Sweep, figure: str = "student") -> Figure | None:
    """A figure of each run over the first two keys, the mean over further ones; None for fewer keys, or where no run
    has the figure. Of each value of the second key, a frame marks the value of the first that is best on validation.

    figure: one of `TITLES`.
    """
    if len(sweep.keys) < 2 or all(each.shown(figure) is None for each in sweep.runs):
        return None
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    of_rows, of_columns = (
        list(dict.fromkeys(written(each.values[key]) for each in sweep.runs)) for key in sweep.keys[:2]
    )
    cells, judged = _cells(sweep, figure), _cells(sweep, "validation_accuracy")
    grid = [[100 * cells.get((row, column), math.nan) for column in of_columns] for row in of_rows]
    drawn = Figure(figsize=(1.6 + 0.9 * len(of_columns), 1.4 + 0.55 * len(of_rows)), layout="constrained")
    axes = drawn.subplots()
    image = axes.imshow(grid, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(of_columns)), of_columns)
    axes.set_yticks(range(len(of_rows)), of_rows)
    title = TITLES[figure]
    for x, column in enumerate(of_columns):
        of_column = {y: judged[row, column] for y, row in enumerate(of_rows) if (row, column) in judged}
        if len(of_column) > 1:
            y = max(of_column, key=of_column.__getitem__)
            axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor="red", linewidth=2))
            title = f"{TITLES[figure]}\nframed: best on validation"
    axes.set(xlabel=sweep.keys[1], ylabel=sweep.keys[0], title=title)
    known = [100 * value for value in cells.values()]
    low, high = min(known), max(known)
    for y, row_values in enumerate(grid):
        for x, value in enumerate(row_values):
            if value == value:
                is_dark = value <= low + 0.6 * (high - low)
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if is_dark else "black")
    drawn.colorbar(image)
    return drawn
