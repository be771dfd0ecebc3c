"""`stillhouse report RUN`: the report of a finished run."""

from __future__ import annotations

import argparse
import sys

from orchestrator.cli.commands import base
from workers.errors import RequestError

HELP = "the report of a finished run"
EXAMPLES = ("stillhouse report runs/digits", "stillhouse report runs/digits --format html > digits.html")


def arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, the format, and `--push`."""
    base.completes(
        parser.add_argument("run", metavar="RUN", type=base.run_folder, help="the run's folder, a path or URI"),
        base.FOLDERS,
    )
    parser.add_argument("--format", choices=["markdown", "json", "html"], help="default: a table")
    parser.add_argument("--push", action="store_true", help="send the tracker what it lacks, instead of printing")
    base.add_overrides(parser)


def main(asked: argparse.Namespace) -> None:
    """Print the report, or send it to the tracker. Raises: `RequestError` for an option that would have no effect."""
    if asked.overrides and not asked.push:
        raise RequestError(
            f"--set {asked.overrides[0]}: a finished report has no settings. Expected `--set` only together with "
            "`--push`; leave it out."
        )
    if asked.push and asked.format is not None:
        raise RequestError(f"--format {asked.format}: with --push nothing is printed. Expected one of the two options.")
    from orchestrator.cli import presentation
    from orchestrator.observers.terminal import Screen
    from orchestrator.reporting import files, report

    found = report.load(asked.run)
    if asked.push:
        from orchestrator.cli import push

        tracker = push.push(found, asked.run, asked.overrides)
        print(f"'{found.name}' is complete in the tracker {tracker}", file=sys.stderr)
        return
    if asked.format is None:
        presentation.show(found, Screen())
    else:
        base.write_file(files.FORMS[asked.format].text(found))
