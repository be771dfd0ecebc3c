"""What each file of a subcommand has, and the arguments that several share."""

from __future__ import annotations

import argparse
from typing import Protocol


class Command(Protocol):
    """A subcommand. Its file imports heavy modules in `main` alone."""

    @property
    def HELP(self) -> str:
        """One line of `stillhouse --help`."""

    @property
    def EXAMPLES(self) -> tuple[str, ...]:
        """Commands as a user types them, at the end of the subcommand's own help."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the subcommand's arguments."""

    def main(self, asked: argparse.Namespace) -> int | None:
        """Execute it. Returns its exit status; None for 0. Raises: `StillhouseError`."""


def add_config(parser: argparse.ArgumentParser, help_text: str = "a YAML file", nargs: str | None = None) -> None:
    """The configuration, and overrides of its keys."""
    parser.add_argument("config", metavar="CONFIG", help=help_text, nargs=nargs)
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Overrides of a configuration's keys."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key, such as ensemble.size=5; may be repeated",
    )


def add_fresh(parser: argparse.ArgumentParser) -> None:
    """Whether to ignore what earlier runs completed."""
    parser.add_argument("--fresh", action="store_true", help="start over instead of reusing what is complete")
