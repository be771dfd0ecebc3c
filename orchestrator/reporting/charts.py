"""A report's figures as inline SVG: accuracies, members' worth, reliability, shared confusion, training.

They are pure, and of the report alone. A system has the same mark and colour in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from orchestrator.reporting import svg, verdict
from orchestrator.reporting.by_class import Pair
from orchestrator.reporting.content import Figure, between
from orchestrator.reporting.report import COMPARED, FIGURED, Bounds, Report, Role, System, best_member
from orchestrator.reporting.svg import Scale, axes, drawing, element, line, mark, text
from orchestrator.reporting.verdict import shown

WIDTH, HEIGHT = 420.0, 280.0
FEWEST = 10
"""Test examples in a bin of confidence that is drawn."""
FURTHER = 8
"""Most further systems that the figure of accuracies has."""


def _percent(value: float) -> str:
    return f"{100 * value:.4g}%"


def _whole(value: float) -> str:
    return f"{value:g}"


def accuracies(report: Report) -> Figure:
    """Each system's test accuracy with its 95% interval; the members as marks on one line."""
    further = [system for system in report.systems if system.role == "further"][:FURTHER]
    systems = [best_member(report), *(report.system(role) for role in FIGURED), *further]
    bounds = [bound for each in systems for bound in each.test.accuracy_interval or ()]
    members = [system.test.accuracy for system in report.members]
    x = Scale(*svg.around([*members, *bounds, *(each.test.accuracy for each in systems)]), 114, WIDTH - 62)
    rows = (["members"] if len(members) > 1 else []) + [each.name for each in systems]
    bottom = 12.0 + 30 * len(rows)
    parts = []
    for value in x.ticks:
        parts += [line(x.at(value), 4, x.at(value), bottom, "grid")]
        parts += [text(_percent(value), x.at(value), bottom + 12, "tick", "middle")]
    heights = [22.0 + 30 * k for k in range(len(rows))]
    if len(members) > 1:
        parts += [text("each member", 104, heights[0], "", "end")]
        parts += [mark("member", x.at(value), heights[0], 3.5) for value in members]
    for system, y in zip(systems, heights[-len(systems) :], strict=True):
        parts += _whisker(system, x, y)
    told = "; ".join(f"{each.name} {shown(each.test.accuracy)}{_to(each.test.accuracy_interval)}" for each in systems)
    title = f"Test {report.accuracy_name} of each system"
    drawn = drawing(WIDTH, bottom + 24, parts, title=title, description=told)
    return Figure(f"{title}, with 95% intervals" if bounds else title, told, drawn)


def _whisker(system: System, x: Scale, y: float) -> list[Element]:
    accuracy, bounds = system.test.accuracy, system.test.accuracy_interval
    parts = [text(svg.fitted(system.name, 102), 104, y, "", "end")]
    if bounds is not None:
        low, high = map(x.at, bounds)
        parts += [line(low, y, high, y, f"line {system.role}")]
        parts += [line(end, y - 5, end, y + 5, f"line {system.role}") for end in (low, high)]
    return [*parts, mark(system.role, x.at(accuracy), y), text(shown(accuracy), WIDTH, y, "number", "end")]


def _to(bounds: Bounds | None) -> str:
    return "" if bounds is None else f" ({between(bounds, shown)})"


def differences(report: Report) -> list[Figure]:
    """The differences in accuracy with their 95% intervals, around 0; none in reports without."""
    found = [each for each in report.differences if each.interval is not None]
    if not found:
        return []
    values = [100 * bound for each in found for bound in (*(each.interval or ()), each.accuracy)]
    x = Scale(*svg.around([0.0, *values]), 164, WIDTH - 50)
    bottom = 12.0 + 30 * len(found)
    parts = []
    for value in x.ticks:
        parts += [line(x.at(value), 4, x.at(value), bottom, "axis" if value == 0 else "grid")]
        parts += [text(f"{value:+g}" if value else "0", x.at(value), bottom + 12, "tick", "middle")]
    for k, each in enumerate(found):
        assert each.interval is not None
        y = 22.0 + 30 * k
        low, high = (x.at(100 * bound) for bound in each.interval)
        role = "line difference" if each.resolved else "line difference dashed"
        parts += [text(svg.fitted(f"{each.of} over {each.over}", 154), 154, y, "", "end")]
        parts += [
            line(low, y, high, y, role),
            *(line(end, y - 5, end, y + 5, "line difference") for end in (low, high)),
        ]
        parts += [svg.circle(x.at(100 * each.accuracy), y, 4.5, "mark difference")]
        parts += [text(f"{100 * each.accuracy:+z.2f}", WIDTH, y, "number", "end")]
    told = "; ".join(f"{e.of} over {e.over} {100 * e.accuracy:+z.2f} ({verdict.interval(e.interval)})" for e in found)
    title = f"Differences in test {report.accuracy_name}, in points"
    drawn = drawing(WIDTH, bottom + 24, parts, title=title, description=told)
    return [Figure(f"{title}, with 95% intervals; dashed: not resolved", told, drawn)]


def by_members(report: Report) -> Figure:
    """Accuracy by number of members: of the best by validation with intervals, and of any; student and baseline too."""
    best = [(k, each.accuracy, each.accuracy_interval) for k, each in enumerate(report.worth, 1)]
    any_ = [(point.members, point.accuracy) for point in report.curve]
    levels = {role: report.system(role).test.accuracy for role in ("baseline", "student")}
    values = [*(accuracy for _, accuracy in any_), *levels.values(), *(accuracy for _, accuracy, _ in best)]
    values += [bound for _, _, bounds in best for bound in bounds or ()]
    most = max([count for count, _ in any_] + [len(best)])
    x, y = Scale(1, max(most, 2), 50, WIDTH - 74, whole=True), Scale(*svg.around(values), HEIGHT - 42, 10)
    parts = axes(x, y, _whole, _percent)
    parts += [text("members", (x.start + x.end) / 2, HEIGHT - 8, "tick", "middle")]
    labels = []
    for role, value in levels.items():
        parts += [line(x.start, y.at(value), x.end, y.at(value), f"line dashed {role}")]
        labels.append((role, role, value))
    whole = [(x.at(k), y.at(bounds[0]), y.at(bounds[1])) for k, _, bounds in best if bounds is not None]
    parts += [svg.band(whole, "band ensemble")] if len(whole) > 1 else []
    parts += [svg.path([(x.at(k), y.at(v)) for k, v in any_], "line dotted ensemble" if best else "line ensemble")]
    parts += [svg.path([(x.at(k), y.at(v)) for k, v, _ in best], "line ensemble")]
    parts += [mark("ensemble", x.at(k), y.at(v), 4) for k, v, _ in best]
    if best:
        labels.append(("ensemble", "ensemble", best[-1][1]))
    elif any_:
        parts += [mark("ensemble", x.at(k), y.at(v), 4) for k, v in any_]
        labels.append(("ensemble", "ensemble", any_[-1][1]))
    parts += at_the_right(labels, x, y)
    title = f"Test {report.accuracy_name} by number of members"
    told = "; ".join(f"{k} members {shown(v)}{_to(bounds)}" for k, v, bounds in best) or "; ".join(
        f"{k} members {shown(v)}" for k, v in any_
    )
    caption = f"{title}: the best first, with 95% intervals; dotted: any k members" if best else title
    return Figure(caption, told, drawing(WIDTH, HEIGHT, parts, title=title, description=told))


def at_the_right(labels: Sequence[tuple[str, str, float]], x: Scale, y: Scale) -> list[Element]:
    """Names of lines at their right ends: name, role, value."""
    places = svg.apart([y.at(value) for _, _, value in labels])
    return [
        text(svg.fitted(name, WIDTH - x.end - 8), x.end + 9, place, f"name {role}")
        for (name, role, _), place in zip(labels, places, strict=True)
    ]


def reliability(report: Report) -> Figure:
    """Accuracy against confidence of the compared systems, in bins (Guo et al. 2017)."""
    x, y = Scale(0, 1, 50, WIDTH - 12), Scale(0, 1, 300, 10)
    parts = axes(x, y, _percent, _percent)
    parts += [line(x.at(0), y.at(0), x.at(1), y.at(1), "axis dashed")]
    parts += [text("confidence", (x.start + x.end) / 2, 332, "tick", "middle")]
    told = []
    for k, role in enumerate(FIGURED):
        system = report.system(role)
        points = bins(system)
        placed = [(x.at(confidence), y.at(accuracy)) for confidence, accuracy in points]
        parts += [svg.path(placed, f"line {role}"), *(mark(role, *each, 3.8) for each in placed)]
        high = y.end + 14 + k * 18
        parts += [mark(role, x.start + 14, high), text(f"{role}, ECE {system.test.ece:.4f}", x.start + 26, high)]
        listed = ", ".join(f"{_percent(round(c, 3))} confident {_percent(round(a, 3))} right" for c, a in points)
        told.append(f"{role}: {listed}")
    title = f"Test {report.accuracy_name} by confidence"
    caption = f"{title}: below the dashed line a system is overconfident; bins of fewer than {FEWEST} are left out"
    return Figure(caption, "; ".join(told), drawing(WIDTH, 340, parts, title=title, description="; ".join(told)))


def bins(system: System) -> list[tuple[float, float]]:
    """Mean confidence and accuracy of each bin of a system that has at least `FEWEST` test examples."""
    found = system.calibration
    return [
        (confidence, accuracy)
        for confidence, accuracy, count in zip(found.confidence, found.accuracy, found.examples, strict=True)
        if count >= FEWEST
    ]


def shared_confusion(pairs: Sequence[Pair]) -> Figure:
    """For pairs of classes, how many test examples each system takes for the other class, as bars."""
    most = max(max(pair.counts.values()) for pair in pairs) or 1
    x = Scale(0, most, 84, WIDTH - 40)
    parts: list[Element] = []
    y = 12.0
    for pair in pairs:
        parts += [text(_named(pair, WIDTH / 2 - 45), 0, y, "strong")]
        for role, count in pair.counts.items():
            y += 16
            parts += [text(role, 76, y, "tick", "end")]
            parts += [
                element(
                    "rect", x=x.start, y=y - 5, width=max(x.at(count) - x.start, 0.5), height=10, class_=f"mark {role}"
                )
            ]
            parts += [text(str(count), x.at(count) + 6, y, "number")]
        y += 26
    told = "; ".join(f"{_named(pair)}: " + ", ".join(f"{r} {n}" for r, n in pair.counts.items()) for pair in pairs)
    title = "Pairs of classes that ensemble and student confuse"
    return Figure(f"{title}: test examples", told, drawing(WIDTH, y - 10, parts, title=title, description=told))


def _named(pair: Pair, width: float = math.inf) -> str:
    """The pair in words, each name cut where it is wider than `width`."""
    label, predicted = (isolated(svg.fitted(name, width)) for name in (pair.label, pair.predicted))
    return f"{label} taken for {predicted}"


def isolated(name: str) -> str:
    """A name of a class, kept from changing the direction of the text around it (Unicode UAX 9)."""
    return name if name.isascii() else f"\u2068{name}\u2069"


@dataclass(frozen=True)
class _Curve:
    """A figure by epoch. name: in words. points: (epoch, value)."""

    name: str
    role: Role
    points: Sequence[tuple[int, float]]
    dashed: bool = False


def training(report: Report) -> list[Figure]:
    """Accuracy and training loss by epoch, of baseline and student; none in reports without epochs.

    The accuracy is that of the validation split and, dashed, of the examples that a system learns from: they part where
    it over-fits.
    """
    histories = {role: report.training[role] for role in COMPARED if report.training.get(role)}
    if not histories or max(map(len, histories.values())) < 2:
        return []
    accuracies = [
        _Curve(role, role, [(each.epoch, each.validation_accuracy) for each in history])
        for role, history in histories.items()
    ]
    learned = [
        _Curve(f"{role} on what it learns from", role, points, dashed=True)
        for role, history in histories.items()
        if (points := [(each.epoch, each.train_accuracy) for each in history if each.train_accuracy is not None])
    ]
    title = f"Validation {report.accuracy_name} by epoch"
    caption = f"{title}; dashed: on the labelled examples that it learns from, the mean over an epoch"
    figures = [_curves([*accuracies, *learned], title, caption if learned else title, _percent)]
    losses = [
        _Curve(role, role, [(each.epoch, each.train_loss) for each in history]) for role, history in histories.items()
    ]
    if any(loss <= 0 or not math.isfinite(loss) for curve in losses for _, loss in curve.points):
        return figures  # a logarithm has no place for it
    title = "Training loss by epoch, nats"
    return [*figures, _curves(losses, title, title, _whole, log=True)]


def _curves(
    curves: Sequence[_Curve], title: str, caption: str, written: Callable[[float], str], *, log: bool = False
) -> Figure:
    """Lines by epoch; those that are not dashed have their names at the right."""
    values = [value for curve in curves for _, value in curve.points]
    epochs = [epoch for curve in curves for epoch, _ in curve.points]
    span = (min(values) / 1.2, max(values) * 1.2) if log else svg.around(values)
    x = Scale(min(epochs), max(max(epochs), min(epochs) + 1), 50, WIDTH - 64, whole=True)
    y = Scale(*span, HEIGHT - 42, 10, log=log)
    parts = axes(x, y, _whole, written)
    parts += [text("epoch", (x.start + x.end) / 2, HEIGHT - 8, "tick", "middle")]
    told = []
    for curve in curves:
        placed = [(x.at(epoch), y.at(value)) for epoch, value in curve.points if math.isfinite(value)]
        drawn = f"line dashed {curve.role}" if curve.dashed else f"line {curve.role}"
        parts += [svg.path(placed, drawn), mark(curve.role, *placed[-1], 4)] if placed else []
        epoch, value = curve.points[-1]
        told.append(f"{curve.name}: {written(round(value, 6))} after epoch {epoch}")
    named = [(curve.name, curve.role, curve.points[-1][1]) for curve in curves if not curve.dashed]
    parts += at_the_right(named, x, y)
    return Figure(caption, "; ".join(told), drawing(WIDTH, HEIGHT, parts, title=title, description="; ".join(told)))
