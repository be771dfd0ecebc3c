"""`docs/REPRODUCTIONS.md`: the papers' figures beside ours, and whether their relations hold."""

from __future__ import annotations

import math
import operator
import re
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.reproductions import ROOT, Experiments, Figure, Measured, Row, is_choice, possible
from orchestrator.reporting import spread as spread_
from orchestrator.reporting.report import Bounds

PAGE, PICTURES = ROOT / "docs/REPRODUCTIONS.md", ROOT / "docs/reproductions"


RELATION = re.compile(r"(?:(?P<sign>>=|>|<=|<|~) )?(?P<value>\S+)(?: to (?P<most>\S+))?")
MEETS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
SIGNS = {">=": "≥", "<=": "≤", "~": "="}
CHOSEN = "†"
LEAD = f"""# The papers' experiments

Written by `make reproduce` from the reports of runs. A figure is a mean over seeds. A seed is a whole run on the same
data, members, baseline and student, unless its row states what varies.

A range is a 95% interval, and the column beside it states what it allows for. `seeds`: other seeds, Student's t of the
mean. `test`: other test examples, the bootstrap of each seed. Of both, the squares of their distances from the mean are
added, that of `test` as the mean over seeds (Zou and Donner 2008). With `seeds` alone the report has no interval over
test examples, and the range holds for these examples only.

A paper's relation holds if the whole range meets it, and does not if none of it does. A setting that is chosen on
validation, such as the best T, has no range; it has to meet the relation in each seed. `one value`: the figure of a
single run, without a range. {CHOSEN}: some settings were chosen with test figures known, as the row states. A picture
of a run is of its first seed.
"""


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


class Summary(NamedTuple):
    """A figure over seeds. values: by seed. mean: NaN where a seed has none. bounds: the 95% interval, and over what in
    words. deviation: the standard deviation over seeds."""

    values: list[float]
    mean: float
    bounds: Bounds | None = None
    over: str = ""
    deviation: float | None = None


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
    lines = ["| experiment | relation | paper | here | range | over | holds |", "|---|---|---:|---:|---:|---|---|"]
    lines += [line for row in asked.rows for line in _relations(row, kept.get(row.name))]
    how = (
        "Commands run in the folder of their example, by a shell that splits variables into words, such as bash. MNIST "
        "and FASHION are folders of the four idx files of MNIST and Fashion-MNIST (Debian's `dataset-fashion-mnist`), "
        f"whose paths have no spaces:\n\n{variables}\n"
    )
    sections = [_section(row, kept.get(row.name)) for row in asked.rows]
    if asked.left_out:
        several = "\n".join(f"- {what}: {why}" for what, why in asked.left_out.items())
        sections.append(f"## Left out\n\n{several}\n")
    return "\n".join([LEAD, *lines, "", how, *sections])


def _relations(row: Row, found: Measured | None) -> list[str]:
    """Lines of the table of relations."""
    link = f"[{row.name}](#{row.name})"
    lines = []
    for name, of in row.figures.items():
        if not of.expected:
            continue
        head = f"| {link} | {_relation(name, of)} | {of.paper} |"
        if found is None or name not in found.values:
            lines.append(f"{head} | | | not measured |")
            continue
        summary = _summary(name, found)
        holds = f"{_verdict(relation(of.expected), summary)}{f' {CHOSEN}' if row.chosen else ''}"
        lines.append(f"{head} {_here(name, summary)} | {_range(name, summary.bounds)} | {summary.over} | {holds} |")
    return lines


def _relation(name: str, of: Figure) -> str:
    return f"{of.shown or name} {relation(of.expected).text(_shown(name))}"


def _verdict(wanted: Relation, of: Summary) -> str:
    """Whether a relation holds of the range of a figure; without one of that of each seed."""
    if of.bounds is not None:
        return wanted.verdict(*of.bounds)
    verdicts = {wanted.verdict(value, value) for value in of.values}
    verdict = verdicts.pop() if len(verdicts) == 1 else "not resolved"
    return f"{verdict}, one value" if len(of.values) == 1 and verdict != "not resolved" else verdict


def _section(row: Row, found: Measured | None) -> str:
    commands = "\n".join(f"    {each}" for each in row.commands)
    where = f"`{row.folder.relative_to(ROOT)}`"
    about = f"{row.paper}: {row.holds}."
    head = f"## {row.name}\n\n{about}\n\nIn {where}:\n\n{commands}\n"
    remarks = [
        f"Seeds vary {row.varies}." if row.varies else "",
        f"{CHOSEN} Chosen with test figures known: {row.chosen}." if row.chosen else "",
    ]
    if found is None:
        return "\n".join([head, "Not measured yet.", *(f"\n{each}" for each in remarks if each), ""])
    lines = ["| | paper | here | range | over | spread | by seed |", "|---|---:|---:|---:|---|---:|---|"]
    lines += [_line(name, of, found) for name, of in row.figures.items()]
    picture = PICTURES / f"{row.name}.png"
    shown = f"![{row.name}]({picture.relative_to(PAGE.parent)})" if picture.exists() else ""
    below = [_took(found), *remarks, shown, row.note]
    return "\n".join([head, *lines, *(f"\n{each}" for each in below if each), ""])


def _took(found: Measured) -> str:
    """Seeds, time and date of an experiment."""
    seeds = max(map(len, found.values.values()))
    cores = f"{found.cores} core{'s' * (found.cores > 1)}"
    parts = [f"{seeds} seed{'s' * (seeds > 1)}", f"{found.minutes:,.0f} minutes on {cores}", found.date]
    return f"{', '.join(filter(None, parts))}."


def _line(name: str, of: Figure, found: Measured) -> str:
    head = f"| {of.shown or name} | {of.paper} |"
    if name not in found.values:
        return f"{head} not measured | | | | |"
    summary = _summary(name, found)
    spread = "" if summary.deviation is None else _shown(name)(summary.deviation).lstrip("+")
    by_seed = "" if is_choice(name) or len(summary.values) == 1 else _by_seed(name, summary)
    bounds = _range(name, summary.bounds)
    return f"{head} {_here(name, summary)} | {bounds} | {summary.over} | {spread} | {by_seed} |"


def _summary(name: str, found: Measured) -> Summary:
    """A figure's mean, and its interval over seeds and over test examples, as far as it is known, within what the
    figure can be."""
    values = found.values[name]
    mean = statistics.fmean(values)
    if math.isnan(mean) or is_choice(name):
        return Summary(values, mean)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    over_seeds = spread_.interval(values)[1] - mean if deviation else 0.0
    known = [
        (value - bounds[0], bounds[1] - value)
        for value, bounds in zip(values, found.intervals.get(name, ()), strict=False)
        if bounds is not None
    ]
    if not over_seeds and not known:
        return Summary(values, mean, deviation=deviation)
    below, above = (
        math.hypot(over_seeds, math.sqrt(statistics.fmean(each * each for each in side)) if side else 0.0)
        for side in ([each[0] for each in known], [each[1] for each in known])
    )
    least, most = possible(name)
    test = "test" if len(known) == len(values) else f"test of {len(known)} seed{'s' * (len(known) > 1)}"
    over = ", ".join([*(["seeds"] if over_seeds else []), *([test] if known else [])])
    return Summary(values, mean, (max(mean - below, least), min(mean + above, most)), over, deviation)


def _here(name: str, of: Summary) -> str:
    """The mean; of a choice that of each seed."""
    if is_choice(name):
        return _by_seed(name, of)
    if not math.isnan(of.mean):
        return _shown(name)(of.mean)
    return f"none in {sum(map(math.isnan, of.values))} of {len(of.values)} seeds"


def _by_seed(name: str, of: Summary) -> str:
    return ", ".join("none" if math.isnan(value) else _shown(name)(value) for value in of.values)


def _range(name: str, bounds: Bounds | None) -> str:
    return "" if bounds is None else f"{_shown(name)(bounds[0])} to {_shown(name)(bounds[1])}"


NUMBER = re.compile(r".*(\.errors|_ms|\.core_hours)( at \S+)?")


def _shown(name: str) -> Callable[[float], str]:
    """The form of a figure: points, a share, or a number."""
    if " - " in name and " / " not in name:
        return lambda value: f"{100 * value:+z.2f}"
    if name.endswith(".perplexity"):
        return lambda value: f"{value:,.2f}"
    if is_choice(name) or NUMBER.fullmatch(name):
        return lambda value: f"{value:,.4g}"
    return lambda value: f"{value:.2%}"
