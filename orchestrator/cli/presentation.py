"""Shows a finished run in the terminal: tables, verdict, and next steps."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cli import differences, snippets
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.terminal import Screen
from orchestrator.reporting import report as reports
from orchestrator.reporting import sections, sums, tables
from orchestrator.reporting.content import Table, between
from orchestrator.reporting.report import Report
from orchestrator.reporting.verdict import shown
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.redact import redacted

if TYPE_CHECKING:
    from orchestrator.cli.export import Exported


def show(report: Report, screen: Screen) -> None:
    """The tables of the sections that say most, and the verdict."""
    for number, section in enumerate(sections.brief(report)):
        for block in section.blocks:
            if isinstance(block, Table):
                screen.table(block.rows, section.title if number else report.name)
    for words in (*sections.notes(report), tables.verdict(report)):
        screen.text(words)


def show_compared(runs: Sequence[str], screen: Screen) -> None:
    """Several runs on one table, then for each further one in what it differs from the first, and by how much."""
    found = [reports.load(run) for run in runs]
    screen.table(tables.compare(found))
    folders = [storage.absolute(run) for run in runs]
    for run, folder, report, difference in zip(runs[1:], folders[1:], found[1:], sums.students(folders), strict=True):
        if folder == folders[0]:
            continue
        rows = differences.differing(folders[0], folder, found[0], report)
        names = (found[0].name, report.name) if found[0].name != report.name else (runs[0], run)
        if rows:
            screen.table([["differs in", *names], *rows])
        screen.text(differences.verdict(*names, difference))


def show_export(done: Exported, screen: Screen) -> None:
    """Print where an export is, and its figures."""
    found = done.measured
    share = found.share_interval
    bounds = "" if share is None else f", {100 * found.level:g}% interval {between(share.bounds, shown)}"
    for line in (
        f"Written: {done.to} ({found.bytes:,} bytes; README.md is its card)",
        f"Accuracy: {found.figures['accuracy']:.2%}, {found.share:.2%} of the ensemble's{bounds}",
        f"Latency: p50 {found.latency_ms['p50']:.2f} ms, p99 {found.latency_ms['p99']:.2f} ms, one example, one thread",
        f"As in torch: {found.agreement.same_class:.2%} the same class, probabilities differ by up to "
        f"{found.agreement.difference:.2g}",
        *([f"Registered: {done.registered}"] if done.registered else []),
    ):
        screen.out.print(line, markup=False, soft_wrap=True)


def where_next(report: Report, config: RunConfig, screen: Screen) -> None:
    """Print useful next commands and files."""
    uri = config.tracking.uri
    if uri.startswith("http"):
        look = f"{redacted(uri).rstrip('/')}/{report.page}"
    else:
        command = f"{_beside_this('mlflow')} ui --backend-store-uri {shlex.quote(redacted(uri))}"
        look = f"{command}, then http://127.0.0.1:5000/{report.page}"
    model = config.student.model
    weights = storage.join(RunFolder(config.folder).shown("student"), model.weights_name)
    student = snippets.load(model, weights)
    for line in (
        f"Report: {report.folder}/report.html",
        f"MLflow: {look}",
        f"Again:  {_beside_this('stillhouse')} report {shlex.quote(report.folder)}",
        f"Student: {weights}, without Stillhouse:",
        *student.splitlines(),
    ):
        screen.out.print(line, markup=False, soft_wrap=True)


def command(name: str, config: str, overrides: Sequence[str]) -> str:
    """A subcommand with its configuration and overrides, as a shell takes it."""
    return shlex.join(["stillhouse", name, config, *(word for each in overrides for word in ("--set", each))])


def _beside_this(command: str) -> str:
    """A command as the user types it: with the folder of this one, if that was typed."""
    folder = os.path.dirname(sys.argv[0])
    return shlex.quote(os.path.join(folder, command)) if folder and not os.path.isabs(folder) else command
