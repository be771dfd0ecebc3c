"""The forms of a report, and its files in a run's folder: for people, for Markdown's readers, for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from orchestrator.reporting.html import page
from orchestrator.reporting.markdown import markdown
from orchestrator.reporting.report import Report, as_json
from orchestrator.run_folder.paths import PLACES
from workers import storage


class Form(NamedTuple):
    """A form of a report. file: its name in a run's folder."""

    file: str
    text: Callable[[Report], str]


FORMS: Mapping[str, Form] = {
    "html": Form(PLACES["report_page"].path(), page),
    "markdown": Form(PLACES["report_text"].path(), markdown),
    "json": Form(PLACES["report"].path(), as_json),
}
"""By their names for `--format`. `report.json` is the last: where it is, all of them are."""


def write(report: Report, folder: str) -> None:
    """Write the report in each form into the run's folder."""
    for form in FORMS.values():
        storage.write_text(storage.join(folder, form.file), form.text(report))


def remove(folder: str) -> None:
    """Remove an earlier run's report, since it does not describe this run."""
    for form in FORMS.values():
        storage.remove(storage.join(folder, form.file))
