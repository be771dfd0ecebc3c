"""The verdict as three questions: was the ensemble worth it, did the student get its gain, and how sure is that?

Each answer has a few words, chosen by signs and by whether a difference is resolved, and sentences with the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.reporting import verdict
from orchestrator.reporting.content import Answer
from orchestrator.reporting.report import COMPARED, Difference, Report
from orchestrator.reporting.tables import accuracies, points, short_count, significant
from orchestrator.reporting.verdict import Accuracies

WORTH = {
    (1, True): "Yes: {points} points",
    (1, None): "Yes: {points} points",
    (1, False): "Not shown: {points} points may be chance",
    (0, True): "No: level with the baseline",
    (0, None): "No: level with the baseline",
    (0, False): "No: level with the baseline",
    (-1, True): "No: {points} points",
    (-1, None): "No: {points} points",
    (-1, False): "Not shown: {points} points may be chance",
}
"""By the sign of ensemble - baseline, and by whether it is resolved; None: in reports of earlier versions."""
OVER_BEST = {
    (1, True): ", and {points} over its best member",
    (1, False): "; over its best member not shown",
    (0, True): "; level with its best member",
    (0, False): "; level with its best member",
    (-1, True): "; below its best member",
    (-1, False): "; over its best member not shown",
}
"""What follows a yes, likewise by ensemble - best member: a single network may have taught as well."""

MAY_BE_CHANCE = "Not shown: the gain may be chance"
SIDES = {1: "{size:.2f} points above {other}", 0: "Level with {other}", -1: "{size:.2f} points below {other}"}
"""Where one system is, by the sign of the difference."""

SURE = {
    (False, True): "All differences are resolved",
    (True, True): "{known} of {count} differences {are} resolved",
    (True, False): "None of the differences is resolved",
}
"""By whether some difference is not resolved, and whether some is."""


def answers(report: Report) -> list[Answer]:
    """The three questions, with their answers."""
    found = accuracies(report)
    return [
        Answer("Was the ensemble worth it?", _worth(found), _on_ensemble(report, found)),
        Answer("Did the student get it?", _reached(found), _on_student(report, found)),
        Answer("How sure is that?", *_sure(report)),
    ]


def _worth(found: Accuracies) -> str:
    sign = verdict.sign(found.ensemble, found.baseline)
    resolved = _resolved(found, "ensemble", "baseline")
    answer = WORTH[sign, resolved].format(points=f"{100 * (found.ensemble - found.baseline):+z.2f}")
    over_best = _resolved(found, "ensemble", found.best_name)
    if sign != 1 or resolved is False or over_best is None:
        return answer
    more = OVER_BEST[verdict.sign(found.ensemble, found.best), over_best]
    return answer + more.format(points=f"{100 * (found.ensemble - found.best):+z.2f}")


def _resolved(found: Accuracies, of: str, over: str) -> bool | None:
    known = _difference(found.differences, of, over)
    return None if known is None else known.resolved


def _difference(differences: Sequence[Difference], of: str, over: str) -> Difference | None:
    return next((each for each in differences if (each.of, each.over) == (of, over)), None)


def _reached(found: Accuracies) -> str:
    if found.may_be_chance and verdict.sign(found.ensemble, found.baseline) == 1:
        return MAY_BE_CHANCE
    return verdict.case(found).answer.format(**verdict.gain(found))


def _on_ensemble(report: Report, found: Accuracies) -> list[str]:
    lines = [_side(found, "ensemble", "baseline", "the hard-label baseline")]
    if len(report.members) > 1:
        chosen = "the best member on validation" if report.best_member else "the best member"
        lines.append(_side(found, "ensemble", found.best_name, f"{found.best_name}, {chosen}"))
    ensemble, student = report.system("ensemble"), report.system("student")
    if student.parameters:
        lines.append(f"{significant(ensemble.parameters / student.parameters)} times the student's parameters.")
    return lines


def _on_student(report: Report, found: Accuracies) -> list[str]:
    ensemble, student = report.system("ensemble"), report.system("student")
    share = [] if found.share is None else [f"The share is between {found.share[0]:.0%} and {found.share[1]:.0%}."]
    return [
        *share,
        _side(found, "student", "baseline", "the hard-label baseline"),
        _side(found, "student", "ensemble", "the ensemble"),
        f"{short_count(student.parameters)} parameters instead of {short_count(ensemble.parameters)}.",
        f"{student.latency_ms.p50:.2f} ms for one example instead of {ensemble.latency_ms.p50:.2f} ms (median).",
    ]


def _side(found: Accuracies, of: str, over: str, other: str) -> str:
    """Where a system is beside another one, with the interval of the difference, and whether that is resolved."""
    values: dict[str, float] = {role: getattr(found, role) for role in COMPARED} | {found.best_name: found.best}
    sign = verdict.sign(values[of], values[over])
    size = round(100 * abs(values[of] - values[over]), verdict.DIGITS)
    where = SIDES[sign if size else 0].format(size=size, other=other)
    known = _difference(found.differences, of, over)
    if known is None:
        return f"{where}."
    notes = ([] if known.interval is None else [points(known.interval)]) + ([] if known.resolved else ["not resolved"])
    return f"{where} ({', '.join(notes)})."


def _sure(report: Report) -> tuple[str, list[str]]:
    """A few words on how many of the differences are resolved, and sentences on those that are not."""
    examples = report.system("student").test.examples
    if not report.differences:
        return "Not measured", ["The report has no intervals: an earlier version of Stillhouse wrote it."]
    if all(each.interval is None for each in report.differences):
        short, lines = "Unknown", [f"{examples:,} test examples, or their groups, are too few for intervals."]
    else:
        unsure, count = [each for each in report.differences if not each.resolved], len(report.differences)
        known = count - len(unsure)
        short = SURE[known < count, known > 0].format(known=known, count=count, are="is" if known == 1 else "are")
        groups = "" if report.test_groups is None else f"{report.test_groups:,} groups of "
        lines = [f"Ranges are 95% intervals over {groups}{examples:,} test examples."]
        lines += [f"The {each.of} over {each.over} is {verdict.unresolved(each.examples_needed)}." for each in unsure]
    return short, [*lines, *_over_seeds(report)]


def _over_seeds(report: Report) -> list[str]:
    if len(report.seeds) < 2:
        return []
    values = [each.student for each in report.seeds]
    return [
        f"Over {len(values)} seeds the student's {report.accuracy_name} is between {verdict.shown(min(values))} and "
        f"{verdict.shown(max(values))}."
    ]
