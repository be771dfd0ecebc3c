"""`docs/REPRODUCTIONS.md`: the papers' figures beside those of the reports that runs of the examples wrote.

    python -m benchmarks.reproduce              writes the page, from new reports and from the figures kept earlier
    python -m benchmarks.reproduce mnist        runs this experiment first, which may take hours

Figures are kept in `benchmarks/results/reproductions.json`, so that one machine need not run all experiments.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel

from orchestrator.reporting import report as reports
from orchestrator.reporting import spread as spread_
from orchestrator.reporting import sweeps
from orchestrator.reporting.report import Report, System
from orchestrator.reporting.sweeps import Sweep, SweptRun
from orchestrator.run_folder.paths import RunFolder
from workers import storage

ROOT = Path(__file__).parents[1]
ROWS, KEPT, PAGE, PICTURES = (
    ROOT / "benchmarks/reproductions.yaml",
    ROOT / "benchmarks/results/reproductions.json",
    ROOT / "docs/REPRODUCTIONS.md",
    ROOT / "docs/reproductions",
)
RIGHT = re.compile(r"right\[(\d+)\]")
SWEPT = re.compile(r"(?P<what>best \S+|accuracy)(?: at (?P<key>\S+)=(?P<value>\S+))?")
SEED = "student.seed"


class Row(BaseModel):
    """An experiment. holds: the relation in the paper. example: the folder of examples that its commands run in; left
    out: `name`. run: the run, or the sweep, that has the figures.

    figures: the paper's, as text, by where ours are. note: what to know of our figures, such as why a relation does not
    hold.
    """

    name: str
    paper: str
    holds: str
    commands: list[str]
    run: str
    figures: dict[str, str]
    example: str = ""
    note: str = ""

    @property
    def folder(self) -> Path:
        return ROOT / "examples" / (self.example or self.name)


class Measured(BaseModel):
    """What an experiment gave. values: of each figure, by seed. intervals: over test examples, of the first seed."""

    date: str
    minutes: float
    values: dict[str, list[float]]
    intervals: dict[str, tuple[float, float]] = {}


def figure(report: Report, name: str) -> float:
    """A figure of a report. Raises: KeyError where the report has none of this name."""
    if name == "gain_transferred":
        return math.nan if report.gain_transferred is None else report.gain_transferred
    for sign, combined in COMBINED.items():
        one, found, other = name.partition(f" {sign} ")
        if found:
            return combined(figure(report, f"{one}.accuracy"), figure(report, f"{other}.accuracy"))
    of, _, what = name.rpartition(".")
    generation = next((each for each in report.generations if each.name == of), None)
    if generation is not None:
        return generation.accuracy
    system = next((each for each in report.systems if each.name == of), None)
    if system is None:
        raise KeyError(
            f"'{report.name}' has no system '{of}'; it has {', '.join(each.name for each in report.systems)}"
        )
    right = RIGHT.fullmatch(what)
    if right is not None:
        row = system.confusion[int(right[1])]
        return row[int(right[1])] / sum(row)
    special = SPECIAL.get(what)
    value = system.test.figure(what) if special is None else special(report, system)
    if value is None:
        raise KeyError(f"'{of}' of '{report.name}' has no figure '{what}'")
    return float(value)


def _train_accuracy(report: Report, system: System) -> float | None:
    history = report.training.get(system.name)
    return history[-1].train_accuracy if history else None


SPECIAL: Mapping[str, Callable[[Report, System], float | None]] = {
    "p99_ms": lambda report, system: system.latency_ms.p99,
    "train_accuracy": _train_accuracy,
}
"""Figures that are none of the test split. Those of training are of its last epoch."""
COMBINED: Mapping[str, Callable[[float, float], float]] = {"-": lambda a, b: a - b, "/": lambda a, b: a / b}


def measured(row: Row, folder: str) -> Measured | None:
    """The figures of the experiment's reports; None where it has not run. folder: of its runs."""
    place = storage.join(folder, row.run)
    if storage.exists(storage.join(place, sweeps.RECORD)):
        return _of_sweep(row, place)
    if not storage.exists(RunFolder(place).report):
        return None
    first = reports.load(place)
    every = [reports.load(storage.join(folder, each.run)) for each in first.seeds] or [first]
    seconds = sum(stage.seconds for each in every for stage in each.stages)
    date = _date(RunFolder(place).report)
    values = {name: [figure(each, name) for each in every] for name in row.figures}
    return Measured(date=date, minutes=seconds / 60, values=values, intervals=_intervals(first, row.figures))


def _date(file: str) -> str:
    return datetime.date.fromtimestamp(os.path.getmtime(file)).isoformat()


def _of_sweep(row: Row, folder: str) -> Measured:
    """The figures of a sweep. folder: of the sweep, beside those of its runs."""
    file = storage.join(folder, sweeps.RECORD)
    sweep = Sweep.model_validate_json(storage.read_text(file))
    each = [reports.load(storage.join(os.path.dirname(folder), of.run)) for of in sweep.runs]
    seconds = sum(stage.seconds for report in each for stage in report.stages if not stage.reused)
    values = {name: swept_figure(sweep, name) for name in row.figures}
    return Measured(date=_date(file), minutes=seconds / 60, values=values)


def swept_figure(sweep: Sweep, name: str) -> list[float]:
    """A figure of a sweep's best point: `best KEY`, its value of a key, or `accuracy`, that of its students by seed.

    With ` at KEY=VALUE` of the points with this value. The best point has the highest mean of validation accuracy over
    `student.seed`. Raises: KeyError where the sweep has no such figure.
    """
    asked = SWEPT.fullmatch(name)
    if asked is None:
        raise KeyError(f"'{name}' is no figure of a sweep; expected 'best KEY' or 'accuracy', with ' at KEY=VALUE'")
    points: dict[str, list[SweptRun]] = {}
    for run in sweep.runs:
        if asked["key"] is None or str(run.values[asked["key"]]) == asked["value"]:
            values = {key: value for key, value in run.values.items() if key != SEED}
            points.setdefault(json.dumps(values), []).append(run)
    if not points:
        raise KeyError(f"'{sweep.name}' has no run at {asked['key']}={asked['value']}")
    best = max(points.values(), key=lambda runs: statistics.fmean(run.validation_accuracy or 0.0 for run in runs))
    if asked["what"] == "accuracy":
        return [run.student for run in best if run.student is not None]
    return [float(best[0].values[asked["what"].removeprefix("best ")])]


def _intervals(report: Report, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    known = {f"{each.name}.accuracy": each.test.accuracy_interval for each in report.systems}
    known |= {f"{each.of} - {each.over}": each.interval for each in report.differences}
    known["gain_transferred"] = report.gain_transferred_interval
    return {name: bounds for name in names if (bounds := known.get(name)) is not None}


def page(rows: Sequence[Row], kept: Mapping[str, Measured]) -> str:
    """The page in Markdown."""
    lead = (
        "# The papers' experiments\n\nWritten by `make reproduce` from the reports of runs. A range is a 95% interval: "
        "of the mean over seeds (Student's t), or of one seed over its test examples.\n"
    )
    return "\n".join([lead, *(_section(row, kept.get(row.name)) for row in rows)])


def _section(row: Row, found: Measured | None) -> str:
    commands = "\n".join(f"    {each}" for each in row.commands)
    where = f"`{row.folder.relative_to(ROOT)}`"
    head = f"## {row.name}\n\n{row.paper}: {row.holds}.\n\nIn {where}:\n\n{commands}\n"
    if found is None:
        return f"{head}\nNot measured yet.\n"
    seeds = max(map(len, found.values.values()))
    lines = ["| | paper | here | range | spread |", "|---|---:|---:|---:|---:|"]
    lines += [
        _line(name, row.figures[name], values, found.intervals.get(name)) for name, values in found.values.items()
    ]
    table = "\n".join(lines)
    took = f"{seeds} seed{'s' * (seeds > 1)}, {found.minutes:,.0f} minutes on two cores, {found.date}."
    picture = PICTURES / f"{row.name}.png"
    shown = [f"![{row.name}]({picture.relative_to(PAGE.parent)})"] if picture.exists() else []
    return "\n".join([head, table, "", took, *(f"\n{each}" for each in (*shown, row.note) if each), ""])


def _line(name: str, paper: str, values: Sequence[float], interval: tuple[float, float] | None) -> str:
    shown = _shown(name)
    spread = ""
    if len(values) > 1:
        half = spread_.half_width(values)
        mean = statistics.fmean(values)
        interval, spread = (mean - half, mean + half), shown(statistics.stdev(values)).lstrip("+")
    bounds = "" if interval is None else f"{shown(interval[0])} to {shown(interval[1])}"
    return f"| {name} | {paper} | {shown(statistics.fmean(values))} | {bounds} | {spread} |"


def _shown(name: str) -> Callable[[float], str]:
    """The form of a figure: points, a share, or a number."""
    if " - " in name:
        return lambda value: f"{100 * value:+.2f}"
    if name.endswith((".errors", ".p99_ms")) or name.startswith("best "):
        return lambda value: f"{value:,.4g}"
    return lambda value: f"{value:.2%}"


def main() -> None:
    """Run experiments by name, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments to run first")
    names = parser.parse_args().names
    rows = [Row.model_validate(each) for each in yaml.safe_load(ROWS.read_text())]
    unknown = {*names} - {row.name for row in rows}
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; known: {', '.join(row.name for row in rows)}")
    for row in rows:
        for command in row.commands if row.name in names else ():
            subprocess.run(shlex.split(os.path.expandvars(command)), cwd=row.folder, check=True)
    kept = {
        name: Measured.model_validate(each)
        for name, each in json.loads(KEPT.read_text() if KEPT.exists() else "{}").items()
    }
    for row in rows:
        found = measured(row, runs := str(row.folder / "runs"))
        kept |= {} if found is None else {row.name: found}
        drawn = Path(runs, row.run, sweeps.MAPS["student"])
        if drawn.exists():
            PICTURES.mkdir(exist_ok=True)
            shutil.copy(drawn, PICTURES / f"{row.name}.png")
    KEPT.write_text(json.dumps({name: each.model_dump() for name, each in sorted(kept.items())}, indent=1) + "\n")
    PAGE.write_text(page(rows, kept))


if __name__ == "__main__":
    main()
