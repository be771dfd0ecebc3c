"""`docs/REPRODUCTIONS.md`: the papers' figures beside ours, and whether their relations hold."""

from __future__ import annotations

import math
import operator
import re
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.reproductions import ROOT, Experiments, Figure, Measured, Row
from orchestrator.reporting import spread as spread_

PAGE, PICTURES = ROOT / "docs/REPRODUCTIONS.md", ROOT / "docs/reproductions"


RELATION = re.compile(r"(?:(?P<sign>>=|>|<=|<|~) )?(?P<value>\S+)(?: to (?P<most>\S+))?")
MEETS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
SIGNS = {">=": "≥", "<=": "≤", "~": "="}


class Relation(NamedTuple):
    """`>= 0.91`, `2.5 to 4` (both included) or `~ 0` (equal). most: of a relation without a sign."""

    sign: str | None
    value: float
    most: float

    def verdict(self, low: float, high: float) -> str:
        """Whether the relation holds of a figure with this 95% interval."""
        if math.isnan(low) or math.isnan(high):
            return "not resolved"
        if self.sign == "~":
            return "not told apart" if low <= self.value <= high else "no"
        if self.sign is not None:
            return {0: "no", 1: "not resolved", 2: "yes"}[sum(MEETS[self.sign](end, self.value) for end in (low, high))]
        if high < self.value or self.most < low:
            return "no"
        return "yes" if self.value <= low and high <= self.most else "not resolved"

    def text(self, shown: Callable[[float], str]) -> str:
        """As the page has it. shown: the form of the figure."""
        value, most = (shown(each).lstrip("+").replace(".00", "") for each in (self.value, self.most))
        return f"from {value} to {most}" if self.sign is None else f"{SIGNS.get(self.sign, self.sign)} {value}"


def relation(expected: str) -> Relation:
    """The relation that a text states. Raises: ValueError for another text."""
    found = RELATION.fullmatch(expected)
    if found is None or (found["sign"] is None) == (found["most"] is None):
        raise ValueError(f"'{expected}' is no relation; expected '>= 0.91', '> 0', '2.5 to 4' or '~ 0'")
    return Relation(found["sign"], float(found["value"]), float(found["most"] or found["value"]))


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
        holds = relation(of.expected).verdict(*(bounds or (mean, mean)))
        ours = f"{_mean(name, mean, found)} | {_range(name, bounds)} | {holds}"
        lines.append(f"| {link} | {_relation(name, of)} | {of.paper} | {ours} |")
    return lines


def _relation(name: str, of: Figure) -> str:
    return f"{of.shown or name} {relation(of.expected).text(_shown(name))}"


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
    spread = "" if deviation is None else _shown(name)(deviation).lstrip("+")
    return f"{head} {_mean(name, mean, found)} | {_range(name, bounds)} | {spread} |"


def _summary(name: str, found: Measured) -> tuple[float, tuple[float, float] | None, float | None]:
    """Mean, 95% interval and standard deviation over seeds; of one seed the interval over its test examples."""
    values = found.values[name]
    mean = statistics.fmean(values)
    if math.isnan(mean):
        return mean, None, None
    if len(values) == 1:
        return mean, found.intervals.get(name), None
    return mean, spread_.interval(values), statistics.stdev(values)


def _mean(name: str, mean: float, found: Measured) -> str:
    if not math.isnan(mean):
        return _shown(name)(mean)
    values = found.values[name]
    return f"none in {sum(map(math.isnan, values))} of {len(values)} seeds"


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
