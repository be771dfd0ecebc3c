"""`stillhouse submit CONFIG --address URL`: a run as a job of a Ray cluster."""

from __future__ import annotations

import argparse
import os

from orchestrator.cli.commands import base
from orchestrator.cluster import environment

HELP = "`run` as a job of a Ray cluster, with the files that it needs"
EXAMPLES = ("stillhouse submit config.yaml --address http://HEAD:8265 --follow",)


def _dashboard() -> str:
    """The cluster's dashboard, from the variables of `ray job submit`; RAY_ADDRESS may be another address."""
    joined = environment.ray_address()
    named = os.environ.get("RAY_API_SERVER_ADDRESS") or (joined if environment.is_dashboard(joined) else "")
    return named or "http://127.0.0.1:8265"


def arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the cluster's address, `--fresh` and `--follow`."""
    base.add_config(parser, "a YAML file; its folder goes with the job")
    parser.add_argument(
        "--address",
        metavar="URL",
        default=_dashboard(),
        help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, else an http URL in RAY_ADDRESS, else "
        "http://127.0.0.1:8265)",
    )
    base.add_fresh(parser)
    parser.add_argument("--follow", action="store_true", help="print the job's log and exit with its status")


def main(asked: argparse.Namespace) -> int:
    """Submit the job; with `--follow` returns its exit status."""
    from orchestrator.cli import submit

    return submit.submit(asked.config, asked.overrides, asked.address, fresh=asked.fresh, follow=asked.follow)
