"""`stillhouse run CONFIG`: members, baseline, soft targets, student, evaluation and report."""

from __future__ import annotations

import argparse

from orchestrator.cli.commands import base
from orchestrator.cluster import interrupts

HELP = "members, baseline, soft targets, student, evaluation, report"
EXAMPLES = (
    "stillhouse run config.yaml",
    "stillhouse run config.yaml --set name=digits-t4 --set distillation.temperature=4",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG and `--fresh`."""
    base.add_config(parser)
    base.add_fresh(parser)


def main(asked: argparse.Namespace) -> None:
    """Execute the run, and show its tables."""
    from orchestrator.observers.terminal import Screen

    with Screen() as screen:
        from orchestrator.cli.commands.loading import prepared

        config = prepared(asked.config, asked.overrides, screen)
        with interrupts.at_once():
            from orchestrator import runs
            from orchestrator.cli import presentation
        typed = presentation.command("run", asked.config, asked.overrides)
        report = runs.run(config, fresh=asked.fresh, verbose=asked.verbose, screen=screen, command=typed)
        presentation.show(report, screen)
        presentation.where_next(report, config, screen)
