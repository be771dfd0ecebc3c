"""`stillhouse sweep CONFIG --over KEY=V1,V2`: runs over a grid of values, or a search, with one table."""

from __future__ import annotations

import argparse

from orchestrator.cli.commands import base
from orchestrator.cluster import interrupts
from workers.errors import RunError

HELP = "runs over a grid of values, or a search, that share members, logits and baselines; one table"
EXAMPLES = (
    "stillhouse sweep config.yaml --over distillation.temperature=1,2,5,20 --over student.model.kwargs.hidden=30,300",
    "stillhouse sweep config.yaml --over distillation.temperature=1..20:log --trials 12",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the axes, and the number of trials."""
    base.add_config(parser)
    parser.add_argument(
        "--over",
        metavar="KEY=V1,V2",
        action="append",
        required=True,
        help="values of a key; with --trials also a range, KEY=LOW..HIGH or KEY=LOW..HIGH:log; may be repeated",
    )
    parser.add_argument("--trials", metavar="N", type=int, help="search with so many runs instead of the whole grid")
    parser.add_argument(
        "--batch",
        metavar="N",
        type=int,
        help="trials proposed at a time; as many of them run as the cluster has resources for (default: 4)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def main(asked: argparse.Namespace) -> None:
    """Execute the sweep and print its table. Raises: `RunError` where a run failed."""
    from orchestrator.observers.terminal import Screen

    with Screen() as screen:
        from orchestrator.cli.commands.loading import prepared

        config = prepared(asked.config, asked.overrides, screen)
        with interrupts.at_once():
            from orchestrator.reporting import sweeps
            from orchestrator.sweep import sweep
        request = sweep.Asked(
            path=asked.config,
            overrides=asked.overrides,
            over=asked.over,
            trials=asked.trials,
            batch=asked.batch,
        )
        found, folder = sweep.sweep(config, request, verbose=asked.verbose, screen=screen)
    if asked.json:
        base.write_file(found.model_dump_json(indent=2) + "\n")
    else:
        screen.table(sweeps.rows(found), found.name)
        screen.out.print(f"Page: {folder}/{sweep.PAGE}", markup=False, soft_wrap=True)
    failed = [each for each in found.runs if each.problem]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(found.runs)} runs failed, the first, {failed[0].run}: {failed[0].problem} The same "
            "command runs them again, and reuses the others."
        )
