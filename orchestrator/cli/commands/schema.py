"""`stillhouse schema`: every key of a configuration, as JSON Schema."""

from __future__ import annotations

import argparse
import json

HELP = "every key of a configuration, as JSON Schema"
EXAMPLES = ("stillhouse schema > stillhouse.schema.json",)


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def main(asked: argparse.Namespace) -> None:
    """Print the schema."""
    from orchestrator.config import reference

    print(json.dumps(reference.schema(), indent=2))
