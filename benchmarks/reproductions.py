"""Figures of the papers' experiments, as the reports of their runs have them."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from orchestrator.reporting import report as reports
from orchestrator.reporting import sweeps
from orchestrator.reporting.report import Report, System
from orchestrator.reporting.sweeps import Sweep, SweptRun
from orchestrator.run_folder.paths import RunFolder
from workers import storage

ROOT = Path(__file__).parents[1]
RIGHT = re.compile(r"right\[(\d+)\]")
SWEPT = re.compile(r"(?P<what>best \S+|student\.accuracy)(?: at (?P<key>\S+)=(?P<value>\S+))?")
OTHER_RUN = re.compile(r"([^\s()]+):")
OF_DIFFERENCES = re.compile(r"\((.+)\) / \((.+)\)")
SEED = "student.seed"
CORES = 2
"""Of the machine on which experiments are measured."""


class Figure(BaseModel):
    """What a report has of a relation. shown: its name on the page. paper: the paper's figure, as text.

    expected: the relation in the paper, `>= 0.91`, `> 0`, `2.5 to 4`, or `~ 0` for equal; left out where there is none.
    """

    shown: str = ""
    paper: str = ""
    expected: str = ""


class Row(BaseModel):
    """An experiment. holds: the relation in the paper. example: the folder of examples that its commands run in; left
    out: `name`. run: the run, or the sweep, that has the figures.

    figures: by where ours are, as `figure` and `swept_figure` read them; `RUN:figure` is of another run, `a - b` and
    `a / b` are of two figures, or of two systems' accuracies, and `(a - b) / (c - d)` of two differences. note: what to
    know of our figures, such as why a relation does not hold.
    """

    name: str
    paper: str
    holds: str
    commands: list[str]
    run: str
    figures: dict[str, Figure]
    example: str = ""
    note: str = ""

    @property
    def folder(self) -> Path:
        return ROOT / "examples" / (self.example or self.name)


class Experiments(BaseModel):
    """`reproductions.yaml`. variables: of the shell, which commands use; those without a value come from outside."""

    variables: dict[str, str]
    rows: list[Row]


class Measured(BaseModel):
    """What an experiment gave. values: of each figure, by seed; NaN where a seed has none, such as a share of no gain.

    intervals: over test examples, of the first seed.
    """

    date: str
    minutes: float
    values: dict[str, list[float]]
    intervals: dict[str, tuple[float, float]] = {}


class Source(NamedTuple):
    """A run or a sweep. values: a figure for each seed. reports: of all its runs. intervals: over test examples, of the
    first seed."""

    values: Callable[[str], dict[int, float]]
    date: str
    reports: list[Report]
    intervals: Mapping[str, tuple[float, float]]


def measured(row: Row, folder: str) -> Measured | None:
    """The figures of the experiment's reports; None where none of its runs is there. folder: of its runs."""
    runs = {row.run, *(run for name in row.figures for run in OTHER_RUN.findall(name))}
    sources = {run: source for run in runs if (source := _source(folder, run)) is not None}
    if not sources:
        return None
    found = {name: _values(name, row.run, sources) for name in row.figures}
    every = {name: list(of.values()) for name, of in found.items() if of}
    first = sources[row.run].intervals if row.run in sources else {}
    return Measured(
        date=max(each.date for each in sources.values()),
        minutes=minutes([report for each in sources.values() for report in each.reports]),
        values=every,
        intervals={name: first[name] for name in every if name in first},
    )


def of_fewer_seeds(row: Row, found: Measured, kept: Measured) -> list[str]:
    """Figures that `found` has of fewer seeds than `kept`, as after a trial of one seed, or in a run that goes on."""
    return [name for name in row.figures if len(found.values.get(name, ())) < len(kept.values.get(name, ()))]


def _values(name: str, run: str, sources: Mapping[str, Source]) -> dict[int, float]:
    """A figure for each seed, of a run or, as a difference or a ratio, of two; none where a run is missing.

    Figures of two runs are combined seed by seed, of the seeds that both have.
    """
    parts = _parts(name)
    if parts is not None:
        sides = [side if "." in side or _parts(side) else f"{side}.accuracy" for side in parts[1:]]
        first, second = (_values(side, run, sources) for side in sides)
        return {seed: COMBINED[parts[0]](of, second[seed]) for seed, of in first.items() if seed in second}
    other, _, what = name.rpartition(":")
    source = sources.get(other or run)
    return {} if source is None else source.values(what)


def _parts(name: str) -> tuple[str, str, str] | None:
    """The sign of a combined figure and its two sides; None for a figure of its own."""
    ratio = OF_DIFFERENCES.fullmatch(name)
    if ratio is not None:
        return "/", ratio[1], ratio[2]
    for sign in COMBINED:
        one, found, other = name.partition(f" {sign} ")
        if found:
            return sign, one, other
    return None


def _source(folder: str, run: str) -> Source | None:
    place = storage.join(folder, run)
    if storage.exists(storage.join(place, sweeps.RECORD)):
        return _sweep(place)
    return _run(folder, place) if storage.exists(RunFolder(place).report) else None


def _run(folder: str, place: str) -> Source:
    every = reports.repetitions(place)
    further = {each.run for report in every for each in report.students}
    further |= {each.run for report in every for each in report.generations}
    places = [storage.join(folder, run) for run in sorted(further - {report.name for report in every})]
    beside = [reports.load(each) for each in places if storage.exists(RunFolder(each).report)]  # not of all together
    date = _date(RunFolder(place).report)
    return Source(
        lambda name: {each.seed: figure(each, name) for each in every}, date, [*every, *beside], _intervals(every[0])
    )


def _sweep(place: str) -> Source:
    file = storage.join(place, sweeps.RECORD)
    sweep = Sweep.model_validate_json(storage.read_text(file))
    every = [reports.load(storage.join(os.path.dirname(place), of.run)) for of in sweep.runs]
    return Source(lambda name: dict(enumerate(swept_figure(sweep, name))), _date(file), every, {})


def minutes(every: Iterable[Report]) -> float:
    """What runs took one after another, each training once.

    A training that each of them reused took its core hours on `CORES` cores; equal core hours of a stage are the same
    training.
    """
    trained: dict[tuple[str, float], float] = {}
    others = 0.0
    for report in every:
        for stage in report.stages:
            spent = report.cost.get(stage.name)
            if spent is None:
                others += 0.0 if stage.reused else stage.seconds
            elif stage.reused:
                trained.setdefault((stage.name, spent.core_hours), 3600 * spent.core_hours / CORES)
            else:
                trained[stage.name, spent.core_hours] = stage.seconds
    return (sum(trained.values()) + others) / 60


def _date(file: str) -> str:
    return datetime.date.fromtimestamp(os.path.getmtime(file)).isoformat()


def figure(report: Report, name: str) -> float:
    """A figure of a report. Raises: KeyError where the report has none of this name."""
    if name == "gain_transferred":
        return math.nan if report.gain_transferred is None else report.gain_transferred
    if name == "members.core_hours":
        return report.cost["members"].core_hours
    of, _, what = name.rpartition(".")
    of = CHOSEN[of](report).name if of in CHOSEN else of
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
    "parameters": lambda report, system: system.parameters,
    "p50_ms": lambda report, system: system.latency_ms.p50,
    "p99_ms": lambda report, system: system.latency_ms.p99,
    "train_accuracy": _train_accuracy,
}
"""Figures that are none of the test split. Those of training are of its last epoch."""
CHOSEN: Mapping[str, Callable[[Report], System]] = {
    "best member": reports.best_member,
    "most accurate member": lambda report: max(report.members, key=lambda system: system.test.accuracy),
}
"""Members by what they are chosen by: the validation split, or the test split, to compare something with each."""
COMBINED: Mapping[str, Callable[[float, float], float]] = {"-": lambda a, b: a - b, "/": lambda a, b: a / b}


def swept_figure(sweep: Sweep, name: str) -> list[float]:
    """A figure of a sweep's best point: `best KEY`, its value of a key, or `student.accuracy`, of its students by seed.

    With ` at KEY=VALUE` of the points with this value. The best point has the highest mean of validation accuracy over
    `student.seed`. Raises: KeyError where the sweep has no such figure.
    """
    asked = SWEPT.fullmatch(name)
    if asked is None:
        raise KeyError(
            f"'{name}' is no figure of a sweep; expected 'best KEY' or 'student.accuracy', with ' at KEY=VALUE'"
        )
    points: dict[str, list[SweptRun]] = {}
    for run in sweep.runs:
        if asked["key"] is None or str(run.values[asked["key"]]) == asked["value"]:
            values = {key: value for key, value in run.values.items() if key != SEED}
            points.setdefault(json.dumps(values), []).append(run)
    if not points:
        raise KeyError(f"'{sweep.name}' has no run at {asked['key']}={asked['value']}")
    best = max(points.values(), key=lambda runs: statistics.fmean(run.validation_accuracy or 0.0 for run in runs))
    if asked["what"] == "student.accuracy":
        return [run.student for run in best if run.student is not None]
    return [float(best[0].values[asked["what"].removeprefix("best ")])]


def _intervals(report: Report) -> dict[str, tuple[float, float]]:
    known = {f"{each.name}.accuracy": each.test.accuracy_interval for each in report.systems}
    known |= {f"{each.of} - {each.over}": each.interval for each in report.differences}
    known["gain_transferred"] = report.gain_transferred_interval
    return {name: bounds for name, bounds in known.items() if bounds is not None}
