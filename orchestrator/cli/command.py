"""The `stillhouse` command. It parses and loads the configuration before it imports heavy modules."""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import json
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from orchestrator.cluster import interrupts
from workers.errors import RequestError, StillhouseError
from workers.redact import redacted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (0 done, 1 failed, 2 the request was wrong)."""
    asked = _parser().parse_args(arguments)
    try:
        with interrupts.counted(), _logged(logging.INFO if asked.verbose else logging.WARNING):
            return asked.command(asked) or 0
    except KeyboardInterrupt:
        return _stopped(asked.debug)
    except BrokenPipeError as error:
        return 0 if _reader_left() else _failed(error, asked.debug)
    except BaseException as error:  # a model may call sys.exit(), which must not set the status
        return _stopped(asked.debug) if interrupts.pressed_for_s() else _failed(error, asked.debug)


def _reader_left() -> bool:
    """Whether the process that reads stdout has ended, as in `stillhouse report RUN | head`; then discard the rest."""
    try:
        output = sys.stdout.fileno()
        poll = select.poll()
        poll.register(output, 0)  # errors are always reported
        closed = bool(poll.poll(0))
    except (OSError, ValueError):  # stdout is no file
        return False
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return closed


def _failed(error: BaseException, debug: bool) -> int:
    if isinstance(error, StillhouseError):
        _say(str(error), debug)
        return error.exit_status
    _say(
        f"{type(error).__name__}: {error}\nWhat was complete is kept; the same command resumes. --debug shows the "
        "traceback.",
        debug,
    )
    return 1


def _stopped(debug: bool) -> int:
    """Report a stopped run, even where a library converted the interrupt to its own error."""
    _say(interrupts.STOPPED, debug)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a press while Python ends needs no traceback
    return interrupts.STATUS


@contextmanager
def _logged(level: int) -> Iterator[None]:
    """Log in the style of the screen, including Python's warnings."""
    with interrupts.at_once():
        from orchestrator.observers.terminal import LogLines
    logging.basicConfig(level=level, handlers=[LogLines()])
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)


def _say(error: str, debug: bool) -> None:
    if debug:
        print(redacted(traceback.format_exc()), file=sys.stderr)
    print(f"stillhouse: {redacted(error)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    common.add_argument("--verbose", action="store_true", help="show log lines, Ray's included")
    overriding = argparse.ArgumentParser(add_help=False)
    overriding.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key, such as ensemble.size=5; may be repeated",
    )
    parser = argparse.ArgumentParser(
        prog="stillhouse", description="Distil an ensemble of teachers into one student, on Ray."
    )
    parser.add_argument("--version", action="version", version=f"stillhouse {version('stillhouse')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_runs(commands, [common, overriding])
    _add_reports(commands, common, overriding)

    schema = commands.add_parser("schema", parents=[common], help="every key of a configuration, as JSON Schema")
    schema.set_defaults(command=_schema)

    doctor = commands.add_parser(
        "doctor", parents=[common, overriding], help="versions, cores, GPUs; storage and tracker reached or not"
    )
    doctor.add_argument("config", metavar="CONFIG", nargs="?", help="check what this configuration needs")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_runs(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """The commands that execute a configuration."""
    run = commands.add_parser(
        "run", parents=parents, help="members, baseline, soft targets, student, evaluation, report"
    )
    run.add_argument("config", metavar="CONFIG", help="a YAML file")
    run.add_argument("--fresh", action="store_true", help="start over instead of reusing what is complete")
    run.set_defaults(command=_run)

    submit = commands.add_parser(
        "submit", parents=parents, help="`run` as a job of a Ray cluster; what it needs goes with it"
    )
    submit.add_argument("config", metavar="CONFIG", help="a YAML file; its folder goes with the job")
    submit.add_argument(
        "--address",
        metavar="URL",
        default=os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265",
        help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, else %(default)s)",
    )
    submit.add_argument("--fresh", action="store_true", help="start over instead of reusing what is complete")
    submit.add_argument("--follow", action="store_true", help="show what the job says, and end with its status")
    submit.set_defaults(command=_submit)

    worth = commands.add_parser(
        "worth",
        parents=parents,
        help="what each member of a run is worth; or, from three members, what an ensemble would be",
    )
    worth.add_argument("of", metavar="CONFIG|RUN", help="a YAML file, or the folder of a finished run, a path or URI")
    worth.add_argument("--members", metavar="K", type=int, help="foresee so many members (default: ensemble.size)")
    worth.add_argument("--json", action="store_true", help="print JSON instead of a table")
    worth.set_defaults(command=_worth)


def _add_reports(commands: Any, common: argparse.ArgumentParser, overriding: argparse.ArgumentParser) -> None:
    """The commands that read finished runs."""
    report = commands.add_parser("report", parents=[common, overriding], help="the report of a finished run")
    report.add_argument("run", metavar="RUN", help="the run's folder, a path or URI")
    report.add_argument("--format", choices=["markdown", "json"], help="default: a table")
    report.add_argument("--push", action="store_true", help="send the tracker what it has not got, instead of printing")
    report.set_defaults(command=_report)

    compare = commands.add_parser("compare", parents=[common], help="several runs on one table")
    compare.add_argument("runs", metavar="RUN", nargs="+", help="the runs' folders, paths or URIs")
    compare.set_defaults(command=_compare)


def _run(asked: argparse.Namespace) -> None:
    from orchestrator.observers.terminal import Screen

    with Screen() as screen:
        with interrupts.at_once():
            screen.wait_for("reading the configuration", brief=True)
            from orchestrator.config.run_config import RunConfig

            config = RunConfig.load(asked.config, asked.overrides)
            screen.wait_for("loading torch, Ray and MLflow")
            from orchestrator.cluster import environment

            environment.prepare()
            from orchestrator import pipeline
            from orchestrator.cli import presentation
        report = pipeline.run(config, fresh=asked.fresh, verbose=asked.verbose, screen=screen)
        presentation.show(report, screen)
        presentation.where_next(report, config, screen)


def _submit(asked: argparse.Namespace) -> int:
    from orchestrator.cli import submit as submission

    return submission.submit(asked.config, asked.overrides, asked.address, fresh=asked.fresh, follow=asked.follow)


def _report(asked: argparse.Namespace) -> None:
    from orchestrator.cli import presentation
    from orchestrator.observers.terminal import Screen
    from orchestrator.reporting import markdown, report

    found = report.load(asked.run)
    if asked.push:
        from orchestrator.cli import push

        tracker = push.push(found, asked.run, asked.overrides)
        print(f"'{found.name}' is complete in the tracker {tracker}", file=sys.stderr)
        return
    formats = {"markdown": markdown.markdown, "json": report.as_json}
    if asked.format is None:
        presentation.show(found, Screen())
    else:
        sys.stdout.write(formats[asked.format](found))


def _compare(asked: argparse.Namespace) -> None:
    from orchestrator.cli import presentation
    from orchestrator.observers.terminal import Screen

    presentation.show_compared(asked.runs, Screen())


def _worth(asked: argparse.Namespace) -> None:
    from orchestrator.observers.terminal import Screen

    if not asked.of.endswith((".yaml", ".yml")):
        from orchestrator.reporting import report, tables

        found = report.load(asked.of)
        if asked.json:
            print(json.dumps([each.model_dump(mode="json") for each in found.worth], indent=2))
        else:
            Screen().table(tables.worth(found), found.name)
        return
    with Screen(quiet=asked.json) as screen:
        with interrupts.at_once():
            from orchestrator.config.run_config import RunConfig

            config = RunConfig.load(asked.of, asked.overrides)
            screen.wait_for("loading torch, Ray and MLflow")
            from orchestrator.cluster import environment

            environment.prepare()
            from orchestrator import prospects
        foreseen = prospects.prospects(config, asked.members, verbose=asked.verbose, screen=screen)
        if asked.json:
            print(json.dumps(dataclasses.asdict(foreseen), indent=2))
        else:
            screen.table(prospects.rows(foreseen), config.name)
            screen.out.print(prospects.verdict(foreseen), markup=False)


def _schema(asked: argparse.Namespace) -> None:
    from orchestrator.config import reference

    print(json.dumps(reference.schema(), indent=2))


def _doctor(asked: argparse.Namespace) -> None:
    from orchestrator.cli import doctor
    from orchestrator.config.run_config import RunConfig
    from orchestrator.observers.terminal import Screen

    config = RunConfig.load(asked.config, asked.overrides) if asked.config else None
    findings, out = [], Screen().out
    for name, look in doctor.checks(config):
        out.print(f"{name:<12} ", end="", markup=False)  # show the check while it runs
        out.file.flush()
        finding = look()
        out.print(finding.found, markup=False, soft_wrap=True)
        findings.append(finding)
    wrong = [f for f in findings if not f.good]
    if wrong:
        raise RequestError("\n".join(f"{f.name}: {f.found}" for f in wrong))
