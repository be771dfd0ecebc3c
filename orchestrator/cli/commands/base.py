"""What each file of a subcommand has, and the arguments that several share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
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


Completion = Mapping[str, str]
FILES: Completion = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
FOLDERS: Completion = {"bash": "_shtab_compgen_dirs", "zsh": "_files -/", "tcsh": "d"}
"""What a shell offers for an argument, in the words of shtab, which is imported for completion alone."""


def completes(action: argparse.Action, with_these: Completion) -> None:
    """Let shells complete an argument."""
    action.complete = with_these  # type: ignore[attr-defined]  # where shtab reads it


def run_folder(given: str) -> str:
    """A run's folder as given, without slashes at its end: the last part of a URI is the run's name."""
    return given.rstrip("/") or given


def add_config(parser: argparse.ArgumentParser, help_text: str = "a YAML file", nargs: str | None = None) -> None:
    """The configuration, and overrides of its keys."""
    completes(parser.add_argument("config", metavar="CONFIG", help=help_text, nargs=nargs), FILES)
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


def write_file(content: str) -> None:
    """Write the content of a file to stdout: in UTF-8 whatever the locale, like the same file in a run's folder."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content.encode())
    sys.stdout.buffer.flush()
