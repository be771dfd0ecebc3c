"""Several students of the same soft targets in one report, and the front of accuracy against latency and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.reporting import tables
from orchestrator.reporting.report import Bounds, Report, StudentFigures, System

OURS = ("student", "baseline")
"""Names of the systems of the run's own student; those of others end in the student's name."""


def merged(report: Report, own: str, others: Mapping[str, Report]) -> Report:
    """The report of a run with the systems and figures of its further students.

    own: the name of the run's own student. others: reports of the further ones, by name.
    """
    reports = {own: report, **others}
    systems = {name: _systems(name, each, name == own) for name, each in reports.items()}
    front = pareto([of_student for of_student, _ in systems.values()])
    figures = [
        StudentFigures(
            name=name,
            student=systems[name][0].name,
            baseline=systems[name][1].name,
            run=each.name,
            gain_transferred=each.gain_transferred,
            gain_transferred_interval=each.gain_transferred_interval,
            resolved=each.resolved,
            over_baseline_interval=_over_baseline(each),
            may_be_chance=tables.accuracies(each).may_be_chance,
            own_may_be_chance=tables.accuracies(each).is_unsure("student", "baseline"),
            on_front=on_front,
        )
        for (name, each), on_front in zip(reports.items(), front, strict=True)
    ]
    more = [system for name in others for system in reversed(systems[name])]
    return report.model_copy(update={"systems": [*report.systems, *more], "students": figures})


def _over_baseline(report: Report) -> Bounds | None:
    """The interval of the student's difference to its baseline."""
    return next((each.interval for each in report.differences if (each.of, each.over) == OURS), None)


def _systems(name: str, report: Report, is_own: bool) -> tuple[System, System]:
    student, baseline = report.system("student"), report.system("baseline")
    if is_own:
        return student, baseline
    renamed = [
        of.model_copy(update={"name": f"{role}-{name}"}) for role, of in zip(OURS, (student, baseline), strict=True)
    ]
    return renamed[0], renamed[1]


def pareto(systems: Sequence[System]) -> list[bool]:
    """For each system, whether no other is at least as good in accuracy, latency (p99) and size, and better in one."""
    figures = [(system.test.accuracy, -system.latency_ms.p99, -float(system.parameters)) for system in systems]
    return [
        not any(other != one and all(a >= b for a, b in zip(other, one, strict=True)) for other in figures)
        for one in figures
    ]
