"""In what two runs differ, and whether the difference of their students is resolved, in words."""

from __future__ import annotations

from orchestrator.observers import tracking_record
from orchestrator.observers.mlflow_descriptions import flat
from orchestrator.reporting.content import Rows
from orchestrator.reporting.report import Report
from orchestrator.reporting.statistics import Difference
from orchestrator.reporting.verdict import interval, unresolved
from orchestrator.run_folder.resolved import keys_of

PLACES = ("name", "storage", "tracking")
"""Sections of a configuration that no result follows from."""
MOST = 60
"""Characters of a value in the table, without dots."""


def differing(one: str, other: str, first: Report, second: Report) -> Rows:
    """What two runs differ in, a row each: keys of their configurations, data, code and versions of packages.

    one, other: folders. first, second: their reports.
    """
    before, after = _described(one, first), _described(other, second)
    return [
        [key, *_short(before.get(key, "-"), after.get(key, "-"))]
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _described(folder: str, report: Report) -> dict[str, str]:
    """The inputs of a run by name."""
    found = flat({key: value for key, value in keys_of(folder).items() if key not in PLACES}, most=None)
    record = tracking_record.read(folder)
    if record is not None:
        found |= {f"content of {split.name}": split.digest for split in record.datasets}
        code = {key: value for key, value in record.tags.items() if key.startswith(tracking_record.CODE)}
        found |= {key.removeprefix("stillhouse."): value for key, value in code.items()}
    versions = {} if report.origin is None else report.origin.versions
    return found | {f"version of {name}": version for name, version in versions.items()}


def _short(*values: str) -> list[str]:
    """Two values, of long ones such as paths the part in which they differ."""
    differ = (k for k, letters in enumerate(zip(*values, strict=False)) if len(set(letters)) > 1)
    alike = next(differ, min(map(len, values)))

    def part(value: str) -> str:
        if len(value) <= MOST:
            return value
        start = max(0, min(alike - MOST // 4, len(value) - MOST))
        kept = value[start : start + MOST]
        return f"{'...' if start else ''}{kept}{'...' if start + MOST < len(value) else ''}"

    return [part(value) for value in values]


def verdict(one: str, other: str, found: Difference | None) -> str:
    """The sentence on the students of two runs."""
    if found is None:
        return f"The students of {other} and {one} are not compared: their test examples differ, or are not on record."
    points = f"The student of {other} over that of {one}: {100 * found.accuracy:+z.2f} points"
    if found.interval is None:
        return f"{points}, of too few test examples for an interval."
    answer = "resolved" if found.resolved else unresolved(found.needed)
    return f"{points} ({interval(found.interval.bounds)}), which is {answer}."
