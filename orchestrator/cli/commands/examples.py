"""`stillhouse examples [NAME]`: the experiments that come with Stillhouse, listed or copied."""

from __future__ import annotations

import argparse
import shlex

from orchestrator.cli.commands import base
from workers.errors import RequestError

HELP = "list the examples, or copy one"
EXAMPLES = ("stillhouse examples", "stillhouse examples mnist --to digits")


def arguments(parser: argparse.ArgumentParser) -> None:
    """NAME and `--to`."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="copy this example (default: list all)")
    to = parser.add_argument("--to", metavar="FOLDER", help="where to copy it (default: ./NAME)")
    base.completes(to, base.FOLDERS)


def main(asked: argparse.Namespace) -> None:
    """Print the list, or copy an example and print how to run it. Raises: `RequestError` for `--to` without NAME."""
    if asked.to is not None and asked.name is None:
        raise RequestError(f"--to {asked.to}: no example is named, so none is copied. Give NAME.")
    from orchestrator.cli import examples

    if asked.name is None:
        known = examples.every()
        width = max(map(len, known), default=0)
        for example in known.values():
            first = any(each.prepares for each in (example, *(known[name] for name in example.beside if name in known)))
            print(f"{example.name:<{width}}  {example.summary}{'  (prepare.py first)' if first else ''}")
        return
    copies = examples.copy(asked.name, asked.to)
    for example, folder in copies:
        print(f"{example.name}: {len(example.files)} files in {folder}")
    for example, folder in reversed(copies):  # what it refers to comes first
        if example.prepares:
            print(f"First get its data, as {shlex.quote(str(folder / 'prepare.py'))} says in its first lines.")
    print(f"Next: stillhouse run {shlex.quote(str(copies[0][1] / 'config.yaml'))}")
