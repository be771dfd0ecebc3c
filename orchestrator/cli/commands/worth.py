"""`stillhouse worth CONFIG|RUN`: what each member is worth, or what an ensemble of more members would be."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from orchestrator.cli.commands import base
from orchestrator.cluster import interrupts
from workers import json_text

HELP = "what each member of a run is worth; or, from three members, what an ensemble would be"
EXAMPLES = (
    "stillhouse worth runs/digits",
    "stillhouse worth config.yaml --members 10",
    "stillhouse worth config.yaml --larger ensemble.model.kwargs.hidden=1600",
)


MODEL = "ensemble.model."


def arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG or RUN, the number of members, and `--json`."""
    of = parser.add_argument(
        "of",
        metavar="CONFIG|RUN",
        type=base.run_folder,
        help="a YAML file, or the folder of a finished run, a path or URI",
    )
    base.completes(of, base.FILES)
    parser.add_argument(
        "--members", metavar="K", type=int, help="number of members to forecast (default: ensemble.size)"
    )
    parser.add_argument(
        "--larger",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="also train one larger network, with this key below ensemble.model; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    base.add_overrides(parser)


def main(asked: argparse.Namespace) -> None:
    """Print what members are worth."""
    from workers.errors import RequestError

    wrong = [each for each in asked.larger if not each.startswith(MODEL)]
    if asked.of.endswith((".yaml", ".yml")) or Path(asked.of).is_file():  # a run is a folder
        if wrong:
            raise RequestError(f"--larger {wrong[0]}: expected a key that begins with {MODEL}")
        _forecast(asked)
    else:
        given = {"--larger": asked.larger, "--members": asked.members is not None, "--set": asked.overrides}
        for option in [name for name, value in given.items() if value]:
            raise RequestError(f"{option}: '{asked.of}' is a run, whose members are trained; expected a configuration.")
        _of_run(asked)


def _of_run(asked: argparse.Namespace) -> None:
    from orchestrator.observers.terminal import Screen
    from orchestrator.reporting import report, sections, tables
    from workers.errors import RequestError

    found = report.load(asked.of)
    if not found.worth:
        raise RequestError(
            f"'{asked.of}': its report does not say what a member is worth: the ensemble has one member, or the "
            "predictions of the test split are too large to be kept, or an earlier version wrote it. Expected a run of "
            "two members or more with kept predictions: repeat it so."
        )
    if asked.json:
        print(json_text.dumps([each.model_dump() for each in found.worth], indent=2))
    else:
        screen = Screen()
        screen.table(tables.worth(found), found.name)
        screen.text(sections.order_of_members(found))


def _forecast(asked: argparse.Namespace) -> None:
    from orchestrator.observers.terminal import Screen

    with Screen(quiet=asked.json) as screen:
        from orchestrator.cli.commands.loading import prepared

        config = prepared(asked.of, asked.overrides, screen)
        with interrupts.at_once():
            from orchestrator import prospects
            from orchestrator.config.run_config import RunConfig
            from orchestrator.reporting import forecasts

        larger = None
        if asked.larger:
            larger = RunConfig.load(asked.of, [*asked.overrides, *asked.larger]).ensemble.groups[0].model
        request = prospects.Asked(members=asked.members, larger=larger)
        found = prospects.prospects(config, request, verbose=asked.verbose, screen=screen)
        if asked.json:
            print(json_text.dumps(dataclasses.asdict(found), indent=2))
        else:
            screen.table(forecasts.rows(found), config.name)
            screen.text(forecasts.verdict(found))
