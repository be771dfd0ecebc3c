"""A sweep as one page, `sweep.html`: its table, and accuracies by the values of a numeric key or heat maps over two."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from orchestrator.reporting import svg, sweeps
from orchestrator.reporting.charts import HEIGHT, WIDTH, at_the_right
from orchestrator.reporting.content import Block, Document, Figure, Picture, Row, Section, Table
from orchestrator.reporting.html import rendered
from orchestrator.reporting.svg import Scale, axes, drawing, line, mark, text
from orchestrator.reporting.sweeps import Sweep, SweptRun
from orchestrator.reporting.verdict import shown

LOGARITHMIC = 10.0
"""Values that span more than this factor are drawn by their logarithms."""
ROLES = ("baseline", "ensemble", "student")


def page(sweep: Sweep, maps: Mapping[str, bytes]) -> str:
    """The page. maps: heat maps, PNGs by the figure of `SweptRun` that they show."""
    return rendered(document(sweep, maps))


def document(sweep: Sweep, maps: Mapping[str, bytes]) -> Document:
    """The content of the page."""
    drawn: list[Block] = [] if (found := chart(sweep)) is None else [found]
    drawn += [Picture(sweeps.TITLES[name], base64.b64encode(png).decode()) for name, png in maps.items()]
    failed = [each for each in sweep.runs if each.problem]
    return Document(
        title=sweep.name,
        about=f"{len(sweep.runs)} run{'s' * (len(sweep.runs) != 1)} over {', '.join(sweep.keys)}",
        notes=[f"{len(failed)} of {len(sweep.runs)} runs failed: {', '.join(e.run for e in failed)}."]
        if failed
        else [],
        lead=_lead(sweep),
        answers=[],
        sections=[Section("Runs", [Table(sweeps.rows(sweep)), *([Row(drawn)] if drawn else [])])],
        record=sweeps.RECORD,
    )


def _lead(sweep: Sweep) -> str:
    best = next((each for each in sweep.runs if each.run == sweep.best), None)
    if best is None or best.student is None:
        return "No run is complete."
    values = ", ".join(f"{key} {sweeps.written(best.values[key])}" for key in sweep.keys)
    return f"The run whose student is best on validation has {values}. Test accuracy of its student: {_student(best)}."


def _student(run: SweptRun) -> str:
    """The student's accuracy in words."""
    assert run.student is not None
    bounds = run.student_interval
    return shown(run.student) + ("" if bounds is None else f" ({shown(bounds[0])} to {shown(bounds[1])})")


def chart(sweep: Sweep) -> Figure | None:
    """Accuracy of student, baseline and ensemble by the value of the one key, the student with 95% intervals.

    None for several keys, for values that are no numbers, and for fewer than two complete runs.
    """
    if len(sweep.keys) != 1:
        return None
    key = sweep.keys[0]
    runs = [each for each in sweep.runs if each.student is not None]
    values = [each.values[key] for each in runs]
    if len(runs) < 2 or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    points = dict(sorted(zip(map(float, values), runs, strict=True), key=lambda point: point[0]))
    x = _across(list(points))
    bounds = [bound for run in runs for bound in run.student_interval or ()]
    accuracies = [figure for run in runs for role in ROLES if (figure := getattr(run, role)) is not None]
    y = Scale(*svg.around([*accuracies, *bounds]), HEIGHT - 42, 10)
    name = key.rpartition(".")[2]
    parts = axes(x, y, lambda value: f"{value:g}", lambda value: f"{100 * value:.4g}%")
    parts += [text(svg.fitted(name, x.end - x.start), (x.start + x.end) / 2, HEIGHT - 8, "tick", "middle")]
    for value, run in points.items():
        if run.student_interval is not None:
            low, high = map(y.at, run.student_interval)
            parts += [line(x.at(value), low, x.at(value), high, "line student")]
            parts += [line(x.at(value) - 4, end, x.at(value) + 4, end, "line student") for end in (low, high)]
    labels = []
    for role in ROLES:
        found = [(value, figure) for value, run in points.items() if (figure := getattr(run, role)) is not None]
        placed = [(x.at(value), y.at(figure)) for value, figure in found]
        parts += [svg.path(placed, f"line {role}" if role == "student" else f"line dashed {role}")]
        parts += [mark(role, *each, 4) for each in placed]
        labels += [(role, role, found[-1][1])] if found else []
    parts += at_the_right(labels, x, y)
    told = "; ".join(f"{name} {value:g}: student {_student(run)}" for value, run in points.items())
    title = f"Test accuracy by {name}"
    drawn = drawing(WIDTH, HEIGHT, parts, title=title, description=told)
    return Figure(f"{title}, the student with 95% intervals" if bounds else title, told, drawn)


def _across(values: list[float]) -> Scale:
    """The scale of sorted values, with a margin for their marks."""
    low, high, whole = values[0], values[-1], all(value == round(value) for value in values)
    if low > 0 and high > LOGARITHMIC * low:
        room = (high / low) ** 0.05
        return Scale(low / room, high * room, 50, WIDTH - 74, log=True, whole=whole)
    return Scale(*svg.around(values, 0.05), 50, WIDTH - 74, whole=whole)
