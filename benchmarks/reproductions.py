"""Figures of the papers' experiments, as the reports of their runs have them."""

from __future__ import annotations

import datetime
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from orchestrator.reporting import report as reports
from orchestrator.reporting import statistics, sums, sweeps
from orchestrator.reporting.report import Bounds, GenerationFigures, Report, System
from orchestrator.reporting.sweeps import Sweep, SweptRun
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.data.arrays import Float64
from workers.errors import RequestError
from workers.evaluation import bootstrap
from workers.evaluation.bootstrap import Interval

ROOT = Path(__file__).parents[1]
RIGHT = re.compile(r"right\[(\d+)\]")
OF_RUNS = re.compile(r"(?:(?P<run>[^\s:]+):)?(?P<what>.+?)(?: at (?P<at>\S+))?")
"""A figure that is no combination of two."""
CHOICE = re.compile(r"best (?!member\b)(\S+)")
OTHER_RUN = re.compile(r"([^\s()]+):")
OF_DIFFERENCES = re.compile(r"\((.+)\) / \((.+)\)")
SEED = "student.seed"
ACCURACY = ".accuracy"


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

    figures: by where ours are. `SYSTEM.FIGURE` and the names of `WHOLE` are of a report. Of a sweep they are of each
    seed's run that is best on validation, and `best KEY` is its value of a key; with ` at KEY=VALUE` of the runs with
    this value. `RUN:figure` is of another run, `a - b` and `a / b` are of two figures, or of two systems' accuracies,
    and `(a - b) / (c - d)` of two differences.

    varies: what differs between seeds, where that is not the whole run. chosen: which settings were chosen with test
    figures known. picture: the plot of `orchestrator.reporting.plots` that the page shows; left out: a sweep's map, or
    the first of the run's own figures. note: what to know of our figures, such as why a relation does not hold.
    """

    name: str
    paper: str
    holds: str
    commands: list[str]
    run: str
    figures: dict[str, Figure]
    example: str = ""
    varies: str = ""
    chosen: str = ""
    picture: str = ""
    note: str = ""

    @property
    def folder(self) -> Path:
        return ROOT / "examples" / (self.example or self.name)


class Experiments(BaseModel):
    """`reproductions.yaml`. variables: of the shell, which commands use; those without a value come from outside.
    left_out: parts of the papers' experiments that no row has, and why."""

    variables: dict[str, str]
    rows: list[Row]
    left_out: dict[str, str] = {}


class Measured(BaseModel):
    """What an experiment gave. date: of its last run; empty where the storage does not tell. minutes: of all runs, on
    so many cores.

    values: of each figure, by seed; NaN where a seed has none, such as a share of no gain. seeds: of these values.
    intervals: 95% over test examples, of each of these values; None where a seed has none, and fewer than values where
    those of the first seeds alone were kept.
    """

    date: str
    minutes: float
    cores: int
    values: dict[str, list[float]]
    seeds: dict[str, list[int]] = {}
    intervals: dict[str, list[Bounds | None]] = {}


class Ran(NamedTuple):
    """A run of one seed. folder: of the run. values: of a sweep's keys; empty for a run of no sweep."""

    report: Report
    folder: str
    values: Mapping[str, Any]


class Source(NamedTuple):
    """A run or a sweep. ran: the runs that have a figure, by seed; its argument is KEY=VALUE of the runs of a sweep, or
    empty. reports: of all its runs."""

    ran: Callable[[str], dict[int, Ran]]
    date: str
    reports: list[Report]


def measured(row: Row, folder: str, cores: int) -> Measured | None:
    """The figures of the experiment's reports; None where its run is not there: others may be of another experiment.

    folder: of its runs. cores: of the machine that they ran on. Raises: LookupError where a report lacks a figure,
    `RequestError` where it is damaged.
    """
    runs = {row.run, *(run for name in row.figures for run in OTHER_RUN.findall(name))}
    sources = {run: source for run in runs if (source := _source(folder, run)) is not None}
    if row.run not in sources:
        return None
    found = {name: dict(sorted(of.items())) for name in row.figures if (of := _values(name, row.run, sources))}
    sampled = {name: _intervals(name, row.run, sources) for name in found}
    return Measured(
        date=max(each.date for each in sources.values()),
        minutes=minutes([report for each in sources.values() for report in each.reports], cores),
        cores=cores,
        values={name: [*of.values()] for name, of in found.items()},
        seeds={name: [*of] for name, of in found.items()},
        intervals={
            name: [sampled[name].get(seed) for seed in of] for name, of in found.items() if any(sampled[name].values())
        },
    )


def of_fewer_seeds(row: Row, found: Measured, kept: Measured) -> list[str]:
    """Figures that `found` has of fewer seeds than `kept`, as after a trial of one seed, or in a run that goes on."""
    return [name for name in row.figures if len(found.values.get(name, ())) < len(kept.values.get(name, ()))]


def is_choice(name: str) -> bool:
    """Whether a figure is a value that was chosen, such as `best distillation.temperature`."""
    found = OF_RUNS.fullmatch(name)
    return _parts(name) is None and found is not None and CHOICE.fullmatch(found["what"]) is not None


def possible(name: str) -> Bounds:
    """The least and the most that a figure can be, by its name; infinite where it has no bound."""
    parts = _parts(name)
    if parts is None:
        found = OF_RUNS.fullmatch(name)
        what = "" if found is None else found["what"].rpartition(".")[2]
        return next((bounds for names, bounds in POSSIBLE.items() if re.fullmatch(names, what)), (-math.inf, math.inf))
    (low, high), (least, most) = (possible(side) for side in parts[1:])
    if parts[0] == "-":
        return low - most, high - least
    return 0.0 if low >= 0 and least >= 0 else -math.inf, math.inf


def _values(name: str, run: str, sources: Mapping[str, Source]) -> dict[int, float]:
    """A figure for each seed, of a run or, as a difference or a ratio, of two; none where a run is missing.

    Figures of two runs are combined seed by seed, of the seeds that both have.
    """
    parts = _parts(name)
    if parts is not None:
        first, second = (_values(side, run, sources) for side in parts[1:])
        return {seed: COMBINED[parts[0]](of, second[seed]) for seed, of in first.items() if seed in second}
    what, ran = _runs(name, run, sources)
    return {seed: _value(each, what) for seed, each in ran.items()}


def _intervals(name: str, run: str, sources: Mapping[str, Source]) -> dict[int, Bounds | None]:
    """The 95% interval over test examples of a figure, for each seed that may have one.

    That of a difference or a ratio is of two systems' accuracies on the same test examples, resampled in pairs.
    """
    parts = _parts(name)
    if parts is None:
        what, ran = _runs(name, run, sources)
        return {} if is_choice(name) else {seed: interval(each.report, what) for seed, each in ran.items()}
    first, second = (_sums(side, run, sources) for side in parts[1:])
    found: dict[int, Bounds | None] = {}
    for seed in first.keys() & second.keys():
        (one, test), (other, of_other) = first[seed], second[seed]
        paired = PAIRED[parts[0]](one, other) if test == of_other else None
        found[seed] = None if paired is None else paired.bounds
    return found


def _parts(name: str) -> tuple[str, str, str] | None:
    """The sign of a combined figure and its two sides; None for a figure of its own."""
    ratio = OF_DIFFERENCES.fullmatch(name)
    if ratio is not None:
        return "/", ratio[1], ratio[2]
    for sign in COMBINED:
        one, found, other = name.partition(f" {sign} ")
        if found:
            first, second = (side if "." in side else f"{side}{ACCURACY}" for side in (one, other))
            return sign, first, second
    return None


def _runs(name: str, run: str, sources: Mapping[str, Source]) -> tuple[str, dict[int, Ran]]:
    """What a figure is in its reports, and the runs that have it, by seed; none where they are not there."""
    found = OF_RUNS.fullmatch(name)
    assert found is not None, name
    source = sources.get(found["run"] or run)
    return found["what"], {} if source is None else source.ran(found["at"] or "")


def _value(of: Ran, what: str) -> float:
    choice = CHOICE.fullmatch(what)
    if choice is None:
        return figure(of.report, what)
    if choice[1] not in of.values:
        raise LookupError(f"'{of.report.name}' is no run of a sweep over {choice[1]}, so that none is best")
    return float(of.values[choice[1]])


def _sums(side: str, run: str, sources: Mapping[str, Source]) -> dict[int, tuple[Float64, str]]:
    """A system's sums over blocks of test examples, and the digest of these examples, for each seed that has them.

    side: its accuracy; other figures have none.
    """
    if _parts(side) is not None:
        return {}
    what, ran = _runs(side, run, sources)
    if not what.endswith(ACCURACY):
        return {}
    found: dict[int, tuple[Float64, str]] = {}
    for seed, each in ran.items():
        folder, name = _place(each, what.removesuffix(ACCURACY))
        systems, test = sums.read(folder)
        if test and name in systems:
            found[seed] = systems[name], test
    return found


def _place(of: Ran, system: str) -> tuple[str, str]:
    """The folder of the run that has a system's sums, and its name there: further students and generations have runs of
    their own."""
    report, system = of.report, _named(of.report, system)
    elsewhere = {each.name: (each.run, "student") for each in report.generations}
    for each in report.students:
        elsewhere |= {each.student: (each.run, "student"), each.baseline: (each.run, "baseline")}
    if system not in elsewhere:
        return of.folder, system
    run, name = elsewhere[system]
    return storage.join(storage.parent(of.folder), run), name


def _source(folder: str, run: str) -> Source | None:
    place = storage.join(folder, run)
    if storage.exists(storage.join(place, sweeps.RECORD)):
        return _sweep(folder, place)
    return _run(folder, place) if storage.exists(RunFolder(place).report) else None


def _run(folder: str, place: str) -> Source:
    every = reports.repetitions(place)
    further = {each.run for report in every for each in report.students}
    further |= {each.run for report in every for each in report.generations}
    places = [storage.join(folder, run) for run in sorted(further - {report.name for report in every})]
    beside = [reports.load(each) for each in places if storage.exists(RunFolder(each).report)]  # not of all together
    folders = [place, *(storage.join(folder, report.name) for report in every[1:])]
    of_seeds = {report.seed: Ran(report, where, {}) for report, where in zip(every, folders, strict=True)}

    def ran(at: str) -> dict[int, Ran]:
        if at:
            raise LookupError(f"'{every[0].name}' is no sweep, so that it has no runs at {at}")
        return of_seeds

    return Source(ran, _date(RunFolder(place).report), [*every, *beside])


def _sweep(folder: str, place: str) -> Source:
    """A sweep, whose runs have no repetitions (`seeds`) of their own."""
    file = storage.join(place, sweeps.RECORD)
    try:
        sweep = Sweep.model_validate_json(storage.read_text(file))
    except ValidationError as error:
        raise RequestError(f"'{file}': not a sweep's record ({error.error_count()} wrong fields).") from error
    every = {
        each.run: Ran(reports.load(storage.join(folder, each.run)), storage.join(folder, each.run), each.values)
        for each in sweep.runs
        if not each.problem
    }
    return Source(
        lambda at: {seed: every[each.run] for seed, each in best_runs(sweep, at).items()},
        _date(file),
        [each.report for each in every.values()],
    )


def best_runs(sweep: Sweep, at: str = "") -> dict[int, SweptRun]:
    """Of each `student.seed` the run whose student is best on validation; of a sweep without this key that of seed 0.

    at: KEY=VALUE that the runs have; empty: all. Raises: LookupError where no complete run has it.
    """
    key, _, value = at.partition("=")
    complete = [
        each
        for each in sweep.runs
        if not each.problem and each.validation_accuracy is not None and (not at or str(each.values.get(key)) == value)
    ]
    if not complete:
        raise LookupError(f"'{sweep.name}' has no complete run{f' at {at}' if at else ''}")
    best: dict[int, SweptRun] = {}
    for each in sorted(complete, key=lambda run: -(run.validation_accuracy or 0.0)):
        best.setdefault(each.values.get(SEED, 0), each)
    return best


def minutes(every: Iterable[Report], cores: int) -> float:
    """What runs took one after another on so many cores, each training once.

    A training that each of them reused took its core hours on all cores; equal core hours of a stage are the same
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
                trained.setdefault((stage.name, spent.core_hours), 3600 * spent.core_hours / cores)
            else:
                trained[stage.name, spent.core_hours] = stage.seconds
    return (sum(trained.values()) + others) / 60


def _date(file: str) -> str:
    """The day on which a file was written; empty where its storage does not tell."""
    name = posixpath.basename(file)
    changed = next((each.changed for each in storage.entries(storage.parent(file)) if each.name == name), None)
    return "" if changed is None else datetime.date.fromtimestamp(changed).isoformat()


def figure(report: Report, name: str) -> float:
    """A figure of a report. Raises: LookupError where the report has none of this name."""
    if name in WHOLE:
        return WHOLE[name](report)
    system, what = _system(report, name)
    value: float | None
    if isinstance(system, GenerationFigures):
        value = system.accuracy if what == "accuracy" else None
    elif (right := RIGHT.fullmatch(what)) is not None:
        row = system.confusion[int(right[1])]
        value = row[int(right[1])] / sum(row)
    else:
        special = SPECIAL.get(what)
        value = system.test.figure(what) if special is None else special(report, system)
    if value is None:
        raise LookupError(f"'{system.name}' of '{report.name}' has no figure '{what}'")
    return float(value)


def interval(report: Report, name: str) -> Bounds | None:
    """The 95% interval over test examples of a figure of a report; None where it has none.

    Raises: LookupError as `figure`.
    """
    if name in WHOLE:
        return report.gain_transferred_interval if name == "gain_transferred" else None
    system, what = _system(report, name)
    if isinstance(system, GenerationFigures):
        return system.accuracy_interval
    right = RIGHT.fullmatch(what)
    if right is not None:  # of groups, examples are no independent trials
        row = system.confusion[int(right[1])]
        return None if report.test_groups is not None else bootstrap.of_share(row[int(right[1])], sum(row)).bounds
    test = system.test
    if what == "errors":
        bounds = test.accuracy_interval
        return None if bounds is None else (test.examples * (1 - bounds[1]), test.examples * (1 - bounds[0]))
    return test.interval(what)


def _system(report: Report, name: str) -> tuple[GenerationFigures | System, str]:
    """The system that a figure is of, and which figure it is. Raises: LookupError where the report has no such one."""
    of, _, what = name.rpartition(".")
    of = _named(report, of)
    every: list[GenerationFigures | System] = [*report.generations, *report.systems]
    found = next((each for each in every if each.name == of), None)
    if found is None:
        known = ", ".join(each.name for each in report.systems)
        raise LookupError(f"'{report.name}' has no system '{of}'; it has {known}")
    return found, what


def _named(report: Report, system: str) -> str:
    """The name of a system in the report, of a member that is chosen, too."""
    return CHOSEN[system](report).name if system in CHOSEN else system


def _train_accuracy(report: Report, system: System) -> float | None:
    history = report.training.get(system.name)
    return history[-1].train_accuracy if history else None


WHOLE: Mapping[str, Callable[[Report], float]] = {
    "gain_transferred": lambda report: math.nan if report.gain_transferred is None else report.gain_transferred,
    "members.core_hours": lambda report: report.cost["members"].core_hours,
}
"""Figures of a whole run."""
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
COMBINED: Mapping[str, Callable[[float, float], float]] = {
    "-": lambda a, b: a - b,
    "/": lambda a, b: a / b if b else math.nan,
}
PAIRED: Mapping[str, Callable[[Float64, Float64], Interval | None]] = {
    "-": lambda one, other: statistics.difference(one, other).interval,
    "/": lambda one, other: statistics.share(one, other)[1],
}
"""Intervals of combined accuracies, of sums over the same blocks of test examples."""
POSSIBLE: Mapping[str, Bounds] = {
    r"(train_)?accuracy|macro_f1|ece|right\[\d+\]": (0.0, 1.0),
    r"errors|nll|brier|perplexity|word_error_rate\w*|parameters|p\d+_ms|core_hours": (0.0, math.inf),
}
"""The least and the most of figures by patterns of their names."""
