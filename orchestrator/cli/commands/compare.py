"""`stillhouse compare RUN RUN...`: several runs on one table, what differs, and whether the difference is resolved."""

from __future__ import annotations

import argparse

from orchestrator.cli.commands import base

HELP = "several runs on one table"
EXAMPLES = ("stillhouse compare runs/digits runs/digits-t4",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The runs."""
    runs = parser.add_argument(
        "runs", metavar="RUN", type=base.run_folder, nargs="+", help="the runs' folders, paths or URIs"
    )
    base.completes(runs, base.FOLDERS)


def main(asked: argparse.Namespace) -> None:
    """Print the tables."""
    from orchestrator.cli import presentation
    from orchestrator.observers.terminal import Screen

    presentation.show_compared(asked.runs, Screen())
