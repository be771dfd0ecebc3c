"""The forms of a report, and its files in a run's folder: for people, for Markdown's readers, for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.reporting.html import page
from orchestrator.reporting.markdown import markdown
from orchestrator.reporting.report import Report, as_json
from orchestrator.run_folder.paths import RunFolder
from workers import storage

FORMATS: Mapping[str, Callable[[Report], str]] = {"markdown": markdown, "json": as_json, "html": page}
NAMES: Mapping[str, Callable[[Report], str]] = {"report.html": page, "report.md": markdown, "report.json": as_json}
"""Each file's form. `report.json` is the last: where it is, all of them are."""


def write(report: Report, folder: str) -> None:
    """Write the report in each form into the run's folder."""
    place = RunFolder(folder)
    for uri, name in (
        (place.report_page, "report.html"),
        (place.report_text, "report.md"),
        (place.report, "report.json"),
    ):
        storage.write_text(uri, NAMES[name](report))
