"""The tables of a report, as rows of text: for the terminal, for Markdown and for MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial

from orchestrator.reporting import spread
from orchestrator.reporting import verdict as verdicts
from orchestrator.reporting.content import Rows, between
from orchestrator.reporting.report import (
    COMPARED,
    FIGURED,
    Bounds,
    CurvePoint,
    Difference,
    Report,
    StudentFigures,
    System,
    best_member,
)
from orchestrator.reporting.verdict import Accuracies

BATCH = 64
"""Examples in a batch whose throughput the report has (`workers.evaluation.latency`)."""


def comparison(report: Report) -> Rows:
    """The header, then the members' mean and the best of them, or a single one, and a row for every other system."""
    members, metrics = report.members, _metrics(report)
    general, of = _general(report)
    rows = [_header(report)]
    if len(general) > 1:
        rows.append(_mean_row(f"mean of {len(general)} {of}", general, metrics))
    best = best_member(report)
    rows.append(_row(f"best: {best.name}" if len(members) > 1 else best.name, best, metrics))
    return rows + [_row(s.name, s, metrics) for s in report.systems if s.role != "member"]


def _general(report: Report) -> tuple[list[System], str]:
    """The members that know all classes, which a specialist does not, and what they are called."""
    general = [member for member in report.members if not member.special]
    return general, "members" if len(general) == len(report.members) else "generalists"


def over_seeds(report: Report) -> Rows:
    """The spread over the repetitions; no rows without any."""
    return spread.rows(report.seeds, report.accuracy_name) if report.seeds else []


def front(report: Report) -> Rows:
    """The students beside each other: accuracy against latency and size; no rows for a single student."""
    if not report.students:
        return []
    of_all, systems = report.system("ensemble").test.accuracy, {system.name: system for system in report.systems}
    rows = [
        [
            "student",
            "size",
            "p99 ms",
            report.accuracy_name,
            "95% interval",
            "over its baseline",
            "95% interval",
            "gain transferred",
            "95% interval",
            "of the ensemble's accuracy",
            "on the front",
        ]
    ]
    for each in sorted(report.students, key=lambda each: systems[each.student].parameters):
        student, baseline = systems[each.student], systems[each.baseline]
        rows.append(
            [
                each.name,
                short_count(student.parameters),
                f"{student.latency_ms.p99:.2f}",
                number("accuracy", student.test.accuracy),
                accuracy_bounds(student.test.accuracy_interval),
                f"{100 * (student.test.accuracy - baseline.test.accuracy):+z.2f}",
                points(each.over_baseline_interval),
                _transferred(each),
                between(each.gain_transferred_interval, percent),
                percent(student.test.accuracy / of_all if of_all else None),
                "yes" if each.on_front else "no",
            ]
        )
    return rows


def each_member(report: Report) -> Rows:
    return [_header(report)] + [_row(s.name, s, _metrics(report)) for s in report.members]


def specialists(report: Report) -> Rows:
    """The classes of each specialist, by name."""
    rows = [["specialist", "classes", "which"]]
    return rows + [[s.name, str(len(s.special)), ", ".join(s.special)] for s in report.members if s.special]


def differences(report: Report) -> Rows:
    """The differences in accuracy that the report speaks of, with their intervals."""
    rows = [["difference", "points", "95% interval", "resolved"]]
    rows += [[f"{each.of} over {each.over}", *_sure(each)] for each in report.differences]
    share = report.gain_transferred_interval
    if share is not None and report.gain_transferred is not None:
        answer = "yes" if report.resolved else "no"
        rows.append(["gain transferred", verdicts.transferred(accuracies(report)), between(share, percent), answer])
    return rows


def _transferred(of: StudentFigures) -> str:
    """The share of the ensemble's gain, where that gain is resolved, and whether the student's own is."""
    if of.may_be_chance:
        return "not resolved"
    return percent(of.gain_transferred) + (" (not resolved)" if of.own_may_be_chance else "")


def _sure(of: Difference) -> list[str]:
    """A difference in points, its interval, and whether it is resolved."""
    needed = "" if of.examples_needed is None else f", needs {verdicts.rounded(of.examples_needed):,} examples"
    return [f"{100 * of.accuracy:+z.2f}", points(of.interval), "yes" if of.resolved else f"no{needed}"]


def generations(report: Report) -> Rows:
    """Students that taught each other, each beside the one before."""
    return [
        ["student of", report.accuracy_name, "95% interval", "over the one before", "95% interval", "resolved"],
        *(
            [
                each.name,
                number("accuracy", each.accuracy),
                accuracy_bounds(each.accuracy_interval),
                *(["", "", ""] if each.over is None else _sure(each.over)),
            ]
            for each in report.generations
        ),
    ]


def worth(report: Report) -> Rows:
    """The best k members: accuracy, what the last of them adds and its loss would cost in points, NLL and calibration
    error; beside any k members; and what its training cost, in all and for each point that it adds."""
    unit = "GPU" if any(each.gpu_hours for each in report.worth) else "core"
    rows = [
        [
            "members",
            "with",
            "accuracy",
            "95% interval",
            "adds",
            "95% interval",
            "nll",
            "ece",
            "any k members",
            "lost without it",
            "95% interval",
            f"{unit} hours",
            "for a point",
        ]
    ]
    random = {point.members: point for point in report.curve}
    for count, each in enumerate(report.worth, 1):
        adds = ["-", "-"] if count == 1 else [f"{100 * each.adds:+z.2f}", points(each.adds_interval)]
        rows.append(
            [
                str(count),
                each.member,
                number("accuracy", each.accuracy),
                accuracy_bounds(each.accuracy_interval),
                *adds,
                number("nll", each.nll),
                number("ece", each.ece),
                _with_spread(random.get(count)),
                f"{100 * each.lost:+z.2f}",
                points(each.lost_interval),
                *_of_training(each.gpu_hours if unit == "GPU" else each.core_hours, each.adds if count > 1 else 0.0),
            ]
        )
    return rows


def points(bounds: Bounds | None) -> str:
    """An interval of a difference, in points."""
    return between(bounds, lambda bound: f"{100 * bound:+z.2f}")


def accuracy_bounds(bounds: Bounds | None) -> str:
    """An interval of an accuracy, in percent."""
    return between(bounds, lambda bound: f"{100 * bound:.1f}")


def _with_spread(point: CurvePoint | None) -> str:
    if point is None or point.spread is None:
        return number("accuracy", None if point is None else point.accuracy)
    return f"{number('accuracy', point.accuracy)} ± {100 * point.spread:.2f}"


def _of_training(spent: float | None, adds: float) -> list[str]:
    """The hours of a training, and those for each point that it adds; no figure where it adds none."""
    if spent is None:
        return ["-", "-"]
    return [significant(spent), significant(spent / (100 * adds)) if adds > 0 else "-"]


def members_curve(report: Report) -> Rows:
    """Accuracy with its spread over choices, NLL and ECE of ensembles of any 1, 2, ... members."""
    rows = [["members", report.accuracy_name, "nll", "ece"]]
    return rows + [[str(p.members), _with_spread(p), number("nll", p.nll), number("ece", p.ece)] for p in report.curve]


def calibration(report: Report) -> Rows:
    """How well the probabilities of each compared system fit: mean confidence, and three scores with intervals."""
    rows = [["system", report.accuracy_name, "mean confidence"]]
    for name in ("ece", "nll", "brier"):
        rows[0] += [name, "95% interval"]
    for role in FIGURED:
        system = report.system(role)
        test = system.test
        rows.append([role, number("accuracy", test.accuracy), percent(mean_confidence(system))])
        for name in ("ece", "nll", "brier"):
            rows[-1] += [number(name, test.figure(name)), between(test.interval(name), partial(number, name))]
    return rows


def own_metrics(report: Report) -> Rows:
    """The metrics that only some runs have, with their intervals; no rows where none has one."""
    named = [name for name in report.extra_metrics if any(each.test.interval(name) for each in report.systems)]
    if not named:
        return []
    rows = [["system", *(title_ for name in named for title_ in (title(name), "95% interval"))]]
    for role in FIGURED:
        test = report.system(role).test
        rows.append([role])
        for name in named:
            rows[-1] += [number(name, test.figure(name)), between(test.interval(name), partial(number, name))]
    return rows


def mean_confidence(system: System) -> float | None:
    """The mean probability of the predicted class; None without examples in any bin."""
    found = system.calibration
    examples = sum(found.examples)
    total = sum(n * confidence for n, confidence in zip(found.examples, found.confidence, strict=True))
    return total / examples if examples else None


def training(report: Report) -> Rows:
    """Accuracy on what baseline and student learn from, beside that of the validation split; none where no training
    measured it, or has one epoch."""
    rows = []
    for role in COMPARED:
        history = report.training.get(role, [])
        if len(history) < 2 or (learned := history[-1].train_accuracy) is None:
            continue
        last, best = history[-1], max(history, key=lambda each: each.validation_accuracy)
        of_best = f"{verdicts.shown(best.validation_accuracy)} (epoch {best.epoch})"
        rows.append([role, str(last.epoch), verdicts.shown(learned), verdicts.shown(last.validation_accuracy), of_best])
    header = ["training", "epochs", f"{report.accuracy_name} on what it learns from", "validation", "best validation"]
    return [header, *rows] if rows else []


def stages(report: Report) -> Rows:
    """The seconds of each stage, and those that were planned where the report has them."""
    planned = any(each.planned is not None and each.planned.seconds is not None for each in report.stages)
    rows = [["stage", "seconds", *(["planned"] if planned else []), "from"]]
    for each in report.stages:
        expected = "-" if each.planned is None or each.planned.seconds is None else f"{each.planned.seconds:.1f}"
        rows.append(
            [each.name, f"{each.seconds:.1f}", *([expected] if planned else []), "reused" if each.reused else ""]
        )
    return rows


def spent(report: Report) -> Rows:
    """Core hours and GPU hours by what they computed."""
    return [["computed", "core hours", "GPU hours"]] + [
        [name, significant(each.core_hours), significant(each.gpu_hours)] for name, each in report.cost.items()
    ]


def beside_paper(report: Report) -> Rows:
    """Measured figures beside the paper's, for the paper's metrics, and the gain transferred; no rows without a
    paper."""
    paper = report.paper
    if paper is None:
        return []
    metrics = list(dict.fromkeys(m for figures in (paper.baseline, paper.ensemble, paper.student) for m in figures))
    columns = [report.accuracy_name if m == "accuracy" else title(m) for m in metrics]
    pairs = [f"{column}, {end}" for column in columns for end in ("paper", "here")]
    rows = [["system", *(pairs or ["paper", "here"])]]
    for role in COMPARED if metrics else ():
        figures: dict[str, float] = getattr(paper, role)
        here = report.system(role).test
        rows.append([role, *(number(m, value) for m in metrics for value in (figures.get(m), here.figure(m)))])
    width = len(rows[0])
    gain = [percent(paper.gain_transferred), verdicts.transferred(accuracies(report))]
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

    def known(metric: str) -> float | None:
        """The mean over the systems that have this metric; None where none has it."""
        values = [value for s in systems if (value := s.test.figure(metric)) is not None]
        return sum(values) / len(values) if values else None

    return [
        name,
        number(accuracy, mean(s.test.accuracy for s in systems)),
        accuracy_bounds(bounds),
        *(number(metric, known(metric)) for metric in others),
        short_count(round(mean(s.parameters for s in systems))),
        f"{mean(s.latency_ms.p50 for s in systems):.2f}",
        f"{mean(s.latency_ms.p99 for s in systems):.2f}",
    ]


def _row(name: str, system: System, metrics: Sequence[str]) -> list[str]:
    return _mean_row(name, [system], metrics)


def short_count(count: int) -> str:
    """A number of parameters in four or five characters."""
    rounded = float(f"{count:.3g}")
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{significant(rounded / size)}{letter}"
    return str(count)


def significant(value: float, digits: int = 3) -> str:
    """A figure with so many significant digits; a larger one with all its digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def hours(value: float | None) -> str:
    """Hours of cores or GPUs; "-" for none."""
    return significant(value) if value else "-"


def title(metric: str) -> str:
    return {"macro_f1": "macro-F1"}.get(metric, metric.replace("_", " "))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


FORMATS = {
    "accuracy": f"{{:.{verdicts.DIGITS}%}}",
    "nll": "{:.4f}",
    "ece": "{:.4f}",
    "brier": "{:.4f}",
    "macro_f1": "{:.4f}",
    "errors": "{:.0f}",
    "perplexity": "{:,.2f}",
}
RATE = re.compile("(?<![A-Za-z])rate(?![A-Za-z])")


def number(metric: str, value: float | None) -> str:
    """A figure in the tables' format; metrics with the word `rate` in their name are percentages."""
    if value is None:
        return "-"
    if metric not in FORMATS and not RATE.search(metric):
        return significant(value, 4)
    return FORMATS.get(metric, "{:.2%}").format(value)


def verdict(report: Report) -> str:
    """The verdict as text: the ensemble's gain, and its transfer to the student."""
    return verdicts.of(accuracies(report), report.accuracy_name)


def accuracies(report: Report) -> Accuracies:
    """The figures that the verdict speaks of."""
    baseline, ensemble, student = (report.system(role).test.accuracy for role in COMPARED)
    general, kind = _general(report)
    best = best_member(report)
    share = report.gain_transferred_interval
    return Accuracies(
        baseline=baseline,
        ensemble=ensemble,
        student=student,
        members=tuple(system.test.accuracy for system in general),
        kind=kind,
        specialists=len(report.members) - len(general),
        best=best.test.accuracy,
        best_name=best.name,
        share=share,
        differences=tuple(report.differences),
    )


def cost(report: Report) -> str:
    """The cost in one sentence, including reused work."""
    total = report.total_cost
    price = "" if report.price is None else f", {report.price:,.2f} at the prices given"
    spent = f"{significant(total.core_hours)} core hours and {significant(total.gpu_hours)} GPU hours"
    return f"Training and soft targets took {spent}{price}, what was reused included."


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
                verdicts.transferred(accuracies(report)),
                short_count(student.parameters),
                f"{student.latency_ms.p99:.2f}",
            ]
        )
    return rows
