"""A finished run in the terminal: the tables, the verdict, and where to look next."""

from __future__ import annotations

import shlex

from orchestrator import report as reports
from orchestrator.config import RunConfig
from orchestrator.console import Screen
from orchestrator.report import Report
from workers.secrets import hidden


def show(report: Report, screen: Screen) -> None:
    """The comparison, the paper's figures beside it where the configuration gives them, and the verdict."""
    screen.table(reports.comparison(report), report.name)
    if report.paper is not None:
        screen.table(reports.beside_paper(report), f"beside {report.paper.source}")
    if report.lost_members:
        screen.out.print(f"Members lost on the way: {', '.join(report.lost_members)}.", markup=False)
    screen.out.print(reports.verdict(report), markup=False)


def where_next(report: Report, config: RunConfig, screen: Screen) -> None:
    """The commands and files that a person would want now."""
    uri = config.tracking.uri
    if uri.startswith("http"):
        look = f"{hidden(uri).rstrip('/')}/{report.page}"
    else:
        look = f"mlflow ui --backend-store-uri {shlex.quote(hidden(uri))}, then http://127.0.0.1:5000/{report.page}"
    screen.out.print(f"Report: {report.folder}/report.md", markup=False, soft_wrap=True)
    screen.out.print(f"MLflow: {look}", markup=False, soft_wrap=True)
    screen.out.print(f"Again:  stillhouse report {shlex.quote(report.folder)}", markup=False, soft_wrap=True)
