"""`stillhouse plan CONFIG`: what a run would do where, for how long, and with how many bytes."""

from __future__ import annotations

import argparse
import sys

from orchestrator.cli.commands import base
from orchestrator.cluster import interrupts

HELP = "what would run where, how long, how many bytes; trains only a short rehearsal"
EXAMPLES = (
    "stillhouse plan config.yaml",
    "stillhouse plan config.yaml --no-probe --cluster clusters/aws.yaml --examples 700000000",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the cluster, and how to estimate."""
    base.add_config(parser)
    parser.add_argument("--cluster", metavar="YAML", help="plan for the cluster of this file instead of this machine")
    parser.add_argument("--no-probe", dest="probe", action="store_false", help="estimate from shapes; compute nothing")
    parser.add_argument(
        "--examples", metavar="N", type=int, help="plan for so many transfer examples, of which the data is a sample"
    )
    parser.add_argument(
        "--gpu-tflops", metavar="X", type=float, help="speed of a GPU, for estimates from shapes (default: 40)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def main(asked: argparse.Namespace) -> None:
    """Print the plan."""
    from orchestrator.observers.terminal import Screen

    with Screen() as screen:
        from orchestrator.cli.commands.loading import prepared

        config = prepared(asked.config, asked.overrides, screen)
        with interrupts.at_once():
            from orchestrator import planning
            from orchestrator.plan import summary
        flops = {} if asked.gpu_tflops is None else {"gpu_flops": 1e12 * asked.gpu_tflops}
        request = planning.Asked(cluster=asked.cluster, probe=asked.probe, examples=asked.examples, **flops)
        found = planning.planned(config, request, verbose=asked.verbose, screen=screen)
    if asked.json:
        sys.stdout.write(summary.as_json(found))
        return
    screen.table(summary.rows(found), found.name)
    screen.table(summary.what_if(found))
    if found.designs:
        screen.table(summary.of_designs(found))
    screen.text(summary.verdict(found))
