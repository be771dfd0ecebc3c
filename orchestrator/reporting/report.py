"""The comparison of members, ensemble, baseline and student in one table, and the transferred share of the gain.

`Report` is the schema of `report.json`. This module renders it as Markdown, and the command as a terminal table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.config.schema import PaperSpec
from orchestrator.reporting import by_class, spread
from orchestrator.reporting import verdict as verdicts
from orchestrator.reporting.spread import SeedFigures
from orchestrator.reporting.verdict import Accuracies, Unresolved
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.errors import RequestError

Role = Literal["member", "ensemble", "baseline", "student", "further"]
Bound = Literal["teacher", "driver", "student"]
Bounds = tuple[float, float]
"""The lower and the upper end of an interval."""
BATCH = 64
"""Examples in a batch whose throughput the report has (`workers.evaluation.latency`)."""
COMPARED: tuple[Role, ...] = ("baseline", "ensemble", "student")


class TestMetrics(BaseModel):
    """Metrics on held-out data; the user's own metrics are extra fields."""

    __test__ = False  # keeps pytest from collecting it
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="strings")  # JSON has no number for them
    __pydantic_extra__: dict[str, float] = Field(init=False)

    examples: int
    accuracy: float
    nll: float
    ece: float
    brier: float | None = None
    """The mean squared distance of probabilities and label, 0 to 2; None in reports of earlier versions."""
    macro_f1: float | None = None
    """The mean F1 of the classes; None in reports of earlier versions."""
    accuracy_interval: Bounds | None = None
    """95% interval, by resampling test examples or their groups; None in reports of earlier versions."""
    nll_interval: Bounds | None = None
    ece_interval: Bounds | None = None
    brier_interval: Bounds | None = None

    @property
    def errors(self) -> int:
        return round(self.examples * (1 - self.accuracy))

    def figure(self, name: str) -> float | None:
        """A metric by its name in the report, including `errors`; None where this system lacks it."""
        found = getattr(self, name, None)
        return None if found is None else float(found)


class Difference(BaseModel):
    """By how much one system is more accurate than another on the same test examples."""

    of: str
    over: str
    accuracy: float
    interval: Bounds | None
    """95%, by resampling pairs; None where there are too few examples."""
    resolved: bool
    """Whether the interval leaves 0 out."""
    examples_needed: int | None
    """Test examples that would resolve a difference of this size, with a probability of 80%."""


class Latency(BaseModel):
    """Latency for one example, in milliseconds."""

    p50: float
    p99: float


class Calibration(BaseModel):
    """A reliability diagram: number of examples, mean confidence and accuracy per bin of confidence."""

    examples: list[int]
    confidence: list[float]
    accuracy: list[float]


class System(BaseModel):
    """One network, or the ensemble of all members."""

    name: str
    role: Role
    parameters: int
    test: TestMetrics
    latency_ms: Latency
    examples_per_second: float | None = None
    """In batches of 64 by one thread; None in reports of earlier versions."""
    calibration: Calibration
    confusion: list[list[int]] = []
    """Test examples by label (rows) and prediction (columns). Empty for members and further systems, and for many
    classes."""


class CurvePoint(BaseModel):
    """Metrics of an ensemble with this many members: the mean over as many choices as the run has members."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    members: int
    accuracy: float
    nll: float


class MemberWorth(BaseModel):
    """What one member is worth; members are in the order in which each helps those before it most on validation."""

    member: str
    accuracy: float
    """Of the ensemble of this member and those before it."""
    accuracy_interval: Bounds | None
    nll: float
    ece: float
    adds: float
    """Accuracy over that of the ensemble before; of the first its own."""
    adds_interval: Bounds | None
    lost: float
    """What the whole ensemble loses in accuracy without this member."""
    lost_interval: Bounds | None


class SoftTargets(BaseModel):
    examples: int
    bytes: int
    temperature: float
    combine: str
    weights: dict[str, float] = {}
    """Mixture weight of each member; before a rule for each example."""
    rule: str = ""
    """The rule by which each example has weights of its own; empty without one."""
    schedule: str = ""
    """The schedule of T, in words; empty for a constant one."""
    seconds: float
    reused: bool


class Spent(BaseModel):
    """Reserved cores and GPUs times hours of computing epochs or parts, in this run or an earlier one."""

    core_hours: float
    gpu_hours: float


class Stage(BaseModel):
    name: str
    seconds: float
    reused: bool


class Report(BaseModel):
    """A finished run."""

    name: str
    seed: int = 0
    status: Literal["complete"] = "complete"
    folder: str = ""
    page: str = ""
    """The run's page in MLflow, relative to the tracker's address."""
    accuracy_name: str = "accuracy"
    classes: int = 0
    labels: list[str] = []
    """Names of the classes; empty where labels are numbers."""
    systems: list[System]
    gain_transferred: float | None
    """(student - baseline) / (ensemble - baseline) in test accuracy; None where the ensemble does not beat the
    baseline."""
    gain_transferred_interval: Bounds | None = None
    """95%; None where the ensemble's gain over the baseline is not resolved, or in reports of earlier versions."""
    resolved: bool | None = None
    """Whether the interval of `gain_transferred` leaves 0 out; None in reports of earlier versions."""
    differences: list[Difference] = []
    """The differences in accuracy that the report speaks of."""
    seeds: list[SeedFigures] = []
    """The figures of this run and of its repetitions with other seeds; empty without repetitions."""
    best_member: str = ""
    """The member that is best on the validation split; empty in reports of earlier versions."""
    curve: list[CurvePoint]
    worth: list[MemberWorth] = []
    """Of each member; empty for a single one, where predictions are too large, and in reports of earlier versions."""
    disagreement: float | None = None
    """The share of test examples on which two members predict other classes, the mean over pairs."""
    soft_targets: SoftTargets
    stages: list[Stage]
    bound_by: Bound
    cost: dict[str, Spent] = {}
    """Cost of the members' training, the soft targets (for a resumed pass: the rest), baseline and student."""
    price: float | None = None
    """Price of the cost, where the configuration has hourly prices."""
    lost_members: list[str] = []
    paper: PaperSpec | None = None
    latency_ms: float | None = None
    """The latency that a served model may have for one example, where the configuration has it."""

    def system(self, role: Role) -> System:
        """The first system of a role."""
        return next(system for system in self.systems if system.role == role)

    @property
    def members(self) -> list[System]:
        return [system for system in self.systems if system.role == "member"]

    @property
    def total_cost(self) -> Spent:
        return Spent(
            core_hours=sum(spent.core_hours for spent in self.cost.values()),
            gpu_hours=sum(spent.gpu_hours for spent in self.cost.values()),
        )

    @property
    def extra_metrics(self) -> list[str]:
        return sorted({name for system in self.systems for name in system.test.model_extra or {}})


def gain_transferred(baseline: float, ensemble: float, student: float) -> float | None:
    """The student's share of the ensemble's gain in accuracy; None where the ensemble has no gain."""
    return (student - baseline) / (ensemble - baseline) if ensemble > baseline else None


def load(run: str) -> Report:
    """The report of the run whose folder is at `run`, a path or URI.

    Raises: `RequestError` where the run has no report.
    """
    folder = storage.absolute(run)
    uri = RunFolder(folder).report
    if not storage.exists(uri):
        raise RequestError(
            f"'{run}': no report.json in it. Expected the folder of a finished run, <storage>/<name>; a run that was "
            "interrupted has none until the same command has finished it."
        )
    try:
        return Report.model_validate_json(storage.read_text(uri))
    except ValidationError as error:
        raise RequestError(f"'{uri}': not a report ({error.error_count()} wrong fields).") from error


def write(report: Report, folder: str) -> None:
    storage.write_text(RunFolder(folder).report_text, markdown(report))
    storage.write_text(RunFolder(folder).report, as_json(report))


def remove(folder: str) -> None:
    """Remove an earlier run's report, since it does not describe this run."""
    for uri in (RunFolder(folder).report_text, RunFolder(folder).report):
        storage.remove(uri)


def as_json(report: Report) -> str:
    return report.model_dump_json(indent=2) + "\n"


# --- tables, as rows of text ------------------------------------------------------------------------------


Rows = list[list[str]]


def comparison(report: Report) -> Rows:
    """The header, then the members' mean and the best of them, and a row for every other system."""
    members, metrics = report.members, _metrics(report)
    rows = [_header(report), _mean_row(f"mean of {len(members)} members", members, metrics)]
    best = best_member(report)
    rows.append(_row(f"best: {best.name}" if len(members) > 1 else best.name, best, metrics))
    return rows + [_row(s.name, s, metrics) for s in report.systems if s.role != "member"]


def best_member(report: Report) -> System:
    """The member that is best on the validation split; in reports of earlier versions on the test split."""
    named = [member for member in report.members if member.name == report.best_member]
    return max(named or report.members, key=lambda system: system.test.accuracy)


def of_seed(report: Report) -> SeedFigures:
    """A run's figures, as one of several repetitions."""
    accuracy = {role: report.system(role).test.accuracy for role in COMPARED}
    return SeedFigures(
        seed=report.seed,
        run=report.name,
        best_member=best_member(report).test.accuracy,
        gain_transferred=report.gain_transferred,
        **{str(role): value for role, value in accuracy.items()},
    )


def over_seeds(report: Report) -> Rows:
    """The spread over the repetitions; no rows without any."""
    return spread.rows(report.seeds, report.accuracy_name) if report.seeds else []


def each_member(report: Report) -> Rows:
    return [_header(report)] + [_row(s.name, s, _metrics(report)) for s in report.members]


def differences(report: Report) -> Rows:
    """The differences in accuracy that the report speaks of, with their intervals."""
    rows = [["difference", "points", "95% interval", "resolved"]]
    for each in report.differences:
        needed = (
            "" if each.examples_needed is None else f", by some {verdicts.rounded(each.examples_needed):,} examples"
        )
        answer = "yes" if each.resolved else f"no{needed}"
        rows.append([f"{each.of} over {each.over}", f"{100 * each.accuracy:+.2f}", _points(each.interval), answer])
    share = report.gain_transferred_interval
    if share is not None and report.gain_transferred is not None:
        bounds = " to ".join(f"{bound:.1%}" for bound in share)
        answer = "yes" if report.resolved else "no"
        rows.append(["gain transferred", verdicts.transferred(_accuracies(report)), bounds, answer])
    return rows


def worth(report: Report) -> Rows:
    """What each member adds and what its loss would cost, in points, beside random choices of as many members."""
    rows = [
        [
            "members",
            "with",
            "accuracy",
            "95% interval",
            "adds",
            "95% interval",
            "any so many",
            "lost without it",
            "95% interval",
        ]
    ]
    random = {point.members: point.accuracy for point in report.curve}
    for count, each in enumerate(report.worth, 1):
        adds = ["-", "-"] if count == 1 else [f"{100 * each.adds:+.2f}", _points(each.adds_interval)]
        rows.append(
            [
                str(count),
                each.member,
                number("accuracy", each.accuracy),
                _bounds(each.accuracy_interval),
                *adds,
                number("accuracy", random.get(count)),
                f"{100 * each.lost:+.2f}",
                _points(each.lost_interval),
            ]
        )
    return rows


def _points(bounds: Bounds | None) -> str:
    return "-" if bounds is None else " to ".join(f"{100 * bound:+.2f}" for bound in bounds)


def _bounds(bounds: Bounds | None) -> str:
    return "-" if bounds is None else " to ".join(f"{100 * bound:.1f}" for bound in bounds)


def beside_paper(report: Report) -> Rows:
    """Measured figures beside the paper's, for the paper's systems and metrics; no rows without a paper."""
    paper = report.paper
    if paper is None:
        return []
    metrics = list(dict.fromkeys(m for figures in (paper.baseline, paper.ensemble, paper.student) for m in figures))
    rows = [
        [
            "system",
            *(
                f"{report.accuracy_name if m == 'accuracy' else title(m)}{end}"
                for m in metrics
                for end in (", paper", ", here")
            ),
        ]
    ]
    for role in COMPARED:
        figures: dict[str, float] = getattr(paper, role)
        here = report.system(role).test
        rows.append([role, *(number(m, value) for m in metrics for value in (figures.get(m), here.figure(m)))])
    width = len(rows[0])
    gain = [percent(paper.gain_transferred), verdicts.transferred(_accuracies(report))]
    return [*rows, (["gain transferred", *gain] + [""] * width)[:width]]


def speed(report: Report) -> Rows:
    """Latency and throughput by one thread, and the share of the ensemble's accuracy that each system keeps."""
    limit, of_all = report.latency_ms, report.system("ensemble").test.accuracy
    within = [] if limit is None else [f"p99 within {limit:g} ms"]
    rows = [
        ["system", "size", "p50 ms", "p99 ms", *within, f"in batches of {BATCH}, per s", "of the ensemble's accuracy"]
    ]
    for system in report.systems:
        p50, p99, each_s = system.latency_ms.p50, system.latency_ms.p99, system.examples_per_second
        answer = [] if limit is None else ["yes" if p99 <= limit else "no"]
        speed_ = "-" if each_s is None else f"{each_s:,.0f}"
        kept = percent(system.test.accuracy / of_all if of_all else None)
        rows.append([system.name, short_count(system.parameters), f"{p50:.2f}", f"{p99:.2f}", *answer, speed_, kept])
    return rows


def _metrics(report: Report) -> list[str]:
    """The metrics of the tables. Macro-F1 is shown where classes have names, since those are seldom equally many."""
    return ["accuracy", "errors", *report.extra_metrics, *(["macro_f1"] if report.labels else []), "nll", "ece"]


def _header(report: Report) -> list[str]:
    _, *others = _metrics(report)
    return ["system", report.accuracy_name, "95% interval", *map(title, others), "size", "p50 ms", "p99 ms"]


def _mean_row(name: str, systems: Sequence[System], metrics: Sequence[str]) -> list[str]:
    """The means of the systems' figures, and for a single one the interval of its accuracy."""
    accuracy, *others = metrics
    bounds = systems[0].test.accuracy_interval if len(systems) == 1 else None

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(systems)

    return [
        name,
        number(accuracy, mean(s.test.accuracy for s in systems)),
        _bounds(bounds),
        *(number(metric, mean(s.test.figure(metric) or 0.0 for s in systems)) for metric in others),
        short_count(round(mean(s.parameters for s in systems))),
        f"{mean(s.latency_ms.p50 for s in systems):.2f}",
        f"{mean(s.latency_ms.p99 for s in systems):.2f}",
    ]


def _row(name: str, system: System, metrics: Sequence[str]) -> list[str]:
    return _mean_row(name, [system], metrics)


def short_count(count: int) -> str:
    """A number of parameters in four or five characters."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def title(metric: str) -> str:
    return {"macro_f1": "macro-F1"}.get(metric, metric.replace("_", " "))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


FORMATS = {
    "accuracy": f"{{:.{verdicts.DIGITS}%}}",
    "nll": "{:.4f}",
    "ece": "{:.4f}",
    "macro_f1": "{:.4f}",
    "errors": "{:.0f}",
}


def number(metric: str, value: float | None) -> str:
    """A figure in the tables' format; metrics with `rate` in their name are percentages."""
    if value is None:
        return "-"
    return FORMATS.get(metric, "{:.2%}" if "rate" in metric else "{:.4g}").format(value)


def verdict(report: Report) -> str:
    """The verdict as text: the ensemble's gain, and its transfer to the student."""
    return verdicts.of(_accuracies(report), report.accuracy_name)


def _accuracies(report: Report) -> Accuracies:
    baseline, ensemble, student = (report.system(role).test.accuracy for role in COMPARED)
    members = tuple(system.test.accuracy for system in report.members)
    best = best_member(report)
    unresolved = tuple(
        Unresolved(each.of, each.over, each.accuracy, each.interval, each.examples_needed)
        for each in report.differences
        if not each.resolved and each.interval is not None
    )
    share = report.gain_transferred_interval
    return Accuracies(
        baseline=baseline,
        ensemble=ensemble,
        student=student,
        members=members,
        best=best.test.accuracy,
        best_name=best.name,
        share=share,
        unresolved=unresolved,
    )


def cost(report: Report) -> str:
    """The cost in one sentence, including reused work."""
    total = report.total_cost
    price = "" if report.price is None else f", {report.price:,.2f} at the prices given"
    hours = f"{total.core_hours:.3g} core hours and {total.gpu_hours:.3g} GPU hours"
    return f"Training and soft targets took {hours}{price}, what was reused included."


def markdown(report: Report) -> str:
    lost = f"Members lost on the way: {', '.join(report.lost_members)}.\n\n" if report.lost_members else ""
    parts = [f"# {report.name}\n", lost + verdict(report) + "\n", _table(comparison(report))]
    if report.paper is not None:
        parts += [f"## Beside {report.paper.source}\n", _table(beside_paper(report))]
    if report.differences:
        parts += ["## How sure the differences are\n", _table(differences(report))]
    if report.seeds:
        parts += [f"## Over {len(report.seeds)} seeds\n", _table(over_seeds(report))]
    parts += ["## Members\n", _table(each_member(report))]
    parts += ["## Speed\n", _table(speed(report))]
    curve = [["members", report.accuracy_name, "nll"]] + [
        [str(p.members), number("accuracy", p.accuracy), number("nll", p.nll)] for p in report.curve
    ]
    parts += [
        "## What each further member was worth\n",
        "Mean over as many choices of members as there are members (each run of neighbours in their ring)"
        f"{_without_weight(report.soft_targets)}.\n",
        _table(curve),
    ]
    if report.worth:
        parts += [
            "Members in the order in which each helps those before it most on the validation split, of equal weights. "
            f"Two members disagree on {percent(report.disagreement)} of the test examples.\n",
            _table(worth(report)),
        ]
    soft = report.soft_targets
    parts += [
        "## How it went and what it cost\n",
        f"{soft.examples:,} soft targets at {soft.schedule or f'T = {soft.temperature:g}'}, {_mean(soft)}, "
        f"{soft.bytes / 1e6:.1f} MB, "
        f"{'reused' if soft.reused else f'{soft.seconds:.1f} s'}; the run was bound by the {report.bound_by}.\n",
        _table(
            [["stage", "seconds", "from"]]
            + [[s.name, f"{s.seconds:.1f}", "reused" if s.reused else ""] for s in report.stages]
        ),
        cost(report) + "\n",
        _table(
            [["computed", "core hours", "GPU hours"]]
            + [[name, f"{s.core_hours:.3g}", f"{s.gpu_hours:.3g}"] for name, s in report.cost.items()]
        ),
    ]
    confusions = {role: report.system(role).confusion for role in COMPARED}
    if all(confusions.values()):
        macro = ", ".join(f"{role} {number('macro_f1', report.system(role).test.macro_f1)}" for role in COMPARED)
        parts += [
            f"## Classes\n\nHow many of each class are right. Macro-F1: {macro}.\n",
            _table(by_class.accuracy(report.labels, confusions)),
            "The student's most frequent errors, and how often the others make them:\n",
            _table(by_class.errors(report.labels, confusions, "student")),
        ]
    return "\n".join(parts)


def _mean(soft: SoftTargets) -> str:
    """The rule of the mean in words, with weights that differ."""
    if soft.rule:
        return f"{soft.combine} mean, weights of each example by {soft.rule}"
    if len(set(soft.weights.values())) < 2:
        return f"{soft.combine} mean"
    listed = ", ".join(f"{name} {weight:.3g}" for name, weight in soft.weights.items())
    return f"{soft.combine} mean with the weights {listed}"


def _without_weight(soft: SoftTargets) -> str:
    """Names the members whose weight is 0, since a choice of these alone has no mean."""
    idle = [name for name, weight in soft.weights.items() if weight == 0]
    if soft.rule or not idle:
        return ""
    alone = "these" if len(idle) > 1 else "it"
    return f"; the weight of {', '.join(idle)} is 0, and choices of {alone} alone are left out"


def compare(reports: Sequence[Report]) -> Rows:
    """Several runs on one table, a row each."""
    rows = [["run", "members", "baseline", "ensemble", "student", "gain transferred", "student size", "p99 ms"]]
    for report in reports:
        student = report.system("student")
        rows.append(
            [
                report.name,
                str(len(report.members)),
                *(number("accuracy", report.system(role).test.accuracy) for role in COMPARED),
                verdicts.transferred(_accuracies(report)),
                short_count(student.parameters),
                f"{student.latency_ms.p99:.2f}",
            ]
        )
    return rows


def _table(rows: Rows) -> str:
    header, *body = rows
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [header, rule, *body]) + "\n"


def _cell(text: str) -> str:
    """Text for a cell of Markdown; names of classes may hold anything."""
    return " ".join(text.split()).replace("|", r"\|")
