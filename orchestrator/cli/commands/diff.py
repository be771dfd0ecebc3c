"""`stillhouse diff RUN RUN`: the first artifact in which two runs part in bits."""

from __future__ import annotations

import argparse

from orchestrator.cli.commands import base

HELP = "where two runs part in bits: the first split, member, epoch, part or stage that differs"
EXAMPLES = ("stillhouse diff runs/digits runs/digits-again",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The two runs."""
    for name in ("one", "other"):
        base.completes(
            parser.add_argument(name, metavar="RUN", type=base.run_folder, help="a run's folder, a path or URI"),
            base.FOLDERS,
        )


def main(asked: argparse.Namespace) -> None:
    """Print what is the same, and where the runs part."""
    from orchestrator.cli import bits
    from orchestrator.observers.terminal import Screen

    found, screen = bits.compared(asked.one, asked.other), Screen()
    verdict = bits.verdict(found)
    screen.table(bits.rows(found))
    screen.text(verdict)
