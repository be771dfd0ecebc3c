"""`docs/REPRODUCTIONS.md`: the papers' figures beside ours, and whether their relations hold."""

from __future__ import annotations

import operator
import re
import statistics
from collections.abc import Callable, Mapping

from benchmarks.reproductions import ROOT, Experiments, Figure, Measured, Row
from orchestrator.reporting import spread as spread_

PAGE, PICTURES = ROOT / "docs/REPRODUCTIONS.md", ROOT / "docs/reproductions"


MEETS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
SIGNS = {">=": "≥", "<=": "≤", "~": "="}


def verdict(expected: str, bounds: tuple[float, float]) -> str:
    """Whether a relation holds, `>= 0.91`, `2.5 to 4` or `~ 0` (equal), from the 95% interval of its figure."""
    low, high = bounds
    least, within, most = expected.partition(" to ")
    if within:
        if float(least) <= low and high <= float(most):
            return "yes"
        return "no" if high < float(least) or float(most) < low else "not resolved"
    sign, _, text = expected.partition(" ")
    value = float(text)
    if sign == "~":
        return "not told apart" if low <= value <= high else "no"
    return {0: "no", 1: "not resolved", 2: "yes"}[sum(MEETS[sign](bound, value) for bound in bounds)]


def page(asked: Experiments, kept: Mapping[str, Measured]) -> str:
    """The page in Markdown."""
    variables = "\n".join(
        f'    {name}="{value}"' if value else f"    {name}=..." for name, value in asked.variables.items()
    )
    lead = (
        "# The papers' experiments\n\nWritten by `make reproduce` from the reports of runs. A range is a 95% interval: "
        "of the mean over seeds (Student's t), or of one seed over its test examples. A paper's relation holds if the "
        "whole range meets it, and does not if none of it does; without a range the figure decides.\n"
    )
    lines = ["| experiment | relation | paper | here | range | holds |", "|---|---|---:|---:|---:|---|"]
    lines += [line for row in asked.rows for line in _relations(row, kept.get(row.name))]
    how = (
        "Commands run in the folder of their example. MNIST and FASHION are folders of the four idx files of MNIST and "
        f"Fashion-MNIST:\n\n{variables}\n"
    )
    sections = (_section(row, kept.get(row.name)) for row in asked.rows)
    return "\n".join([lead, *lines, "", how, *sections])


def _relations(row: Row, found: Measured | None) -> list[str]:
    """Lines of the table of relations."""
    link = f"[{row.name}](#{row.name})"
    lines = []
    for name, of in row.figures.items():
        if not of.expected:
            continue
        if found is None or name not in found.values:
            lines.append(f"| {link} | {_relation(name, of)} | {of.paper} | | | not measured |")
            continue
        mean, bounds, _ = _summary(name, found)
        ours = f"{_shown(name)(mean)} | {_range(name, bounds)} | {verdict(of.expected, bounds or (mean, mean))}"
        lines.append(f"| {link} | {_relation(name, of)} | {of.paper} | {ours} |")
    return lines


def _relation(name: str, of: Figure) -> str:
    least, within, most = of.expected.partition(" to ")
    if within:
        return f"{of.shown or name} from {_bound(name, least)} to {_bound(name, most)}"
    sign, _, text = of.expected.partition(" ")
    return f"{of.shown or name} {SIGNS.get(sign, sign)} {_bound(name, text)}"


def _bound(name: str, text: str) -> str:
    return _shown(name)(float(text)).lstrip("+").replace(".00", "")


def _section(row: Row, found: Measured | None) -> str:
    commands = "\n".join(f"    {each}" for each in row.commands)
    where = f"`{row.folder.relative_to(ROOT)}`"
    head = f"## {row.name}\n\n{row.paper}: {row.holds}.\n\nIn {where}:\n\n{commands}\n"
    if found is None:
        return f"{head}\nNot measured yet.\n"
    seeds = max(map(len, found.values.values()))
    lines = ["| | paper | here | range | spread |", "|---|---:|---:|---:|---:|"]
    lines += [_line(name, of, found) for name, of in row.figures.items()]
    table = "\n".join(lines)
    took = f"{seeds} seed{'s' * (seeds > 1)}, {found.minutes:,.0f} minutes on two cores, {found.date}."
    picture = PICTURES / f"{row.name}.png"
    shown = [f"![{row.name}]({picture.relative_to(PAGE.parent)})"] if picture.exists() else []
    return "\n".join([head, table, "", took, *(f"\n{each}" for each in (*shown, row.note) if each), ""])


def _line(name: str, of: Figure, found: Measured) -> str:
    head = f"| {of.shown or name} | {of.paper} |"
    if name not in found.values:
        return f"{head} not measured | | |"
    mean, bounds, deviation = _summary(name, found)
    shown = _shown(name)
    spread = "" if deviation is None else shown(deviation).lstrip("+")
    return f"{head} {shown(mean)} | {_range(name, bounds)} | {spread} |"


def _summary(name: str, found: Measured) -> tuple[float, tuple[float, float] | None, float | None]:
    """Mean, 95% interval and standard deviation over seeds; of one seed the interval over its test examples."""
    values = found.values[name]
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, found.intervals.get(name), None
    return mean, spread_.interval(values), statistics.stdev(values)


def _range(name: str, bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{_shown(name)(bounds[0])} to {_shown(name)(bounds[1])}"


NUMBER = re.compile(r".*(\.errors|_ms|\.core_hours)|best (?!member).*")


def _shown(name: str) -> Callable[[float], str]:
    """The form of a figure: points, a share, or a number."""
    if " - " in name and " / " not in name:
        return lambda value: f"{100 * value:+.2f}"
    if NUMBER.fullmatch(name):
        return lambda value: f"{value:,.4g}"
    return lambda value: f"{value:.2%}"
