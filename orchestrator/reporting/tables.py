"""The tables of a report, as rows of text: for the terminal, for Markdown and for MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.reporting import spread
from orchestrator.reporting import verdict as verdicts
from orchestrator.reporting.report import COMPARED, Bounds, Report, System, best_member
from orchestrator.reporting.verdict import Accuracies

BATCH = 64
"""Examples in a batch whose throughput the report has (`workers.evaluation.latency`)."""
Rows = list[list[str]]


def comparison(report: Report) -> Rows:
    """The header, then the members' mean and the best of them, and a row for every other system."""
    members, metrics = report.members, _metrics(report)
    rows = [_header(report), _mean_row(f"mean of {len(members)} members", members, metrics)]
    best = best_member(report)
    rows.append(_row(f"best: {best.name}" if len(members) > 1 else best.name, best, metrics))
    return rows + [_row(s.name, s, metrics) for s in report.systems if s.role != "member"]


def over_seeds(report: Report) -> Rows:
    """The spread over the repetitions; no rows without any."""
    return spread.rows(report.seeds, report.accuracy_name) if report.seeds else []


def front(report: Report) -> Rows:
    """The students beside each other: accuracy against latency and size; no rows for a single student."""
    if not report.students:
        return []
    of_all, systems = report.system("ensemble").test.accuracy, {system.name: system for system in report.systems}
    header = [
        "student",
        "size",
        "p99 ms",
        report.accuracy_name,
        "95% interval",
        "over its baseline",
        "gain transferred",
    ]
    rows = [[*header, "of the ensemble's accuracy", "on the front"]]
    for each in sorted(report.students, key=lambda each: systems[each.student].parameters):
        student, baseline = systems[each.student], systems[each.baseline]
        rows.append(
            [
                each.name,
                short_count(student.parameters),
                f"{student.latency_ms.p99:.2f}",
                number("accuracy", student.test.accuracy),
                _bounds(student.test.accuracy_interval),
                f"{100 * (student.test.accuracy - baseline.test.accuracy):+.2f}",
                percent(each.gain_transferred),
                percent(student.test.accuracy / of_all if of_all else None),
                "yes" if each.on_front else "no",
            ]
        )
    return rows


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
    unresolved = tuple(each for each in report.differences if not each.resolved and each.interval is not None)
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


def stages(report: Report) -> Rows:
    """The time of each stage, beside the planned time where the run was planned."""
    is_planned = any(each.planned is not None for each in report.stages)
    rows = [["stage", "seconds", *(["planned"] if is_planned else []), "from"]]
    for each in report.stages:
        planned = ["-" if each.planned is None else f"{each.planned:.1f}"] if is_planned else []
        rows.append([each.name, f"{each.seconds:.1f}", *planned, "reused" if each.reused else ""])
    return rows


def cost(report: Report) -> str:
    """The cost in one sentence, including reused work."""
    total = report.total_cost
    price = "" if report.price is None else f", {report.price:,.2f} at the prices given"
    hours = f"{total.core_hours:.3g} core hours and {total.gpu_hours:.3g} GPU hours"
    return f"Training and soft targets took {hours}{price}, what was reused included."


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
