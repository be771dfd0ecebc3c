"""The `stillhouse` command: its subcommands, its exit status, and its errors.

It parses and loads the configuration before it imports heavy modules.
"""

from __future__ import annotations

import argparse
import atexit
import io
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from orchestrator.cli.commands import (
    compare,
    diff,
    doctor,
    examples,
    export,
    init,
    plan,
    report,
    run,
    schema,
    submit,
    sweep,
    worth,
)
from orchestrator.cli.commands.base import Command
from orchestrator.cluster import interrupts
from workers import __version__
from workers.errors import StillhouseError, TakenOver
from workers.redact import redacted

COMMANDS: Mapping[str, Command] = {
    "init": init,
    "run": run,
    "submit": submit,
    "plan": plan,
    "sweep": sweep,
    "worth": worth,
    "report": report,
    "compare": compare,
    "diff": diff,
    "export": export,
    "examples": examples,
    "schema": schema,
    "doctor": doctor,
}
"""The subcommands, in the order of the help."""
FIRST = ("init", "run", "report", "export")
"""Those whose first example is in the help of the command itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (0 done, 1 failed, 2 the request was wrong, 3 a gate was not met)."""
    _open_streams()
    asked = _parser().parse_args(arguments)
    try:
        with interrupts.counted(), _logged(logging.INFO if asked.verbose else logging.WARNING):
            status = COMMANDS[asked.command].main(asked) or 0
            sys.stdout.flush()  # Python itself would fail to as it ends, with a status of its own
            return status
    except KeyboardInterrupt:
        return _stopped(asked.debug)
    except BrokenPipeError as error:
        return 0 if _reader_left() else _failed(error, asked.debug)
    except BaseException as error:  # a model may call sys.exit(), which must not set the status
        stopped = interrupts.pressed_for_s() and not isinstance(error, TakenOver)
        return _stopped(asked.debug) if stopped else _failed(error, asked.debug)


def _open_streams() -> None:
    """Prepare stdout and stderr so that output never fails a command that has done its work.

    The number of a closed one would go to the next file that is opened, which would then receive its text. Characters
    that the locale cannot encode are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # None where it is closed
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


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
        "traceback. If it comes from Stillhouse and not from your model, please report it with that traceback.",
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
    from orchestrator.observers.terminal import visible

    if debug:
        print(visible(redacted(traceback.format_exc())), file=sys.stderr)
    print(f"stillhouse: {visible(redacted(error))}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """A parser, and with it those of the subcommands, whose errors are one message as all others of the command."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message}. `{self.prog} --help` shows what is expected.", debug=False)
        self.exit(2)


class _PrintCompletion(argparse.Action):
    """`--print-completion SHELL`; only this imports shtab."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        import shtab

        print(shtab.complete(parser, given[1]))
        parser.exit()


def _listed(examples: Sequence[str]) -> str:
    """Examples as the end of a help text."""
    return "\n".join(["examples:", *(f"  {example}" for example in examples)])


def _common(default: Any) -> _Parser:
    """The options of every command. default: of each; `SUPPRESS` leaves what stands before the command's name."""
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", default=default, help="show tracebacks")
    common.add_argument("--verbose", action="store_true", default=default, help="show log lines, Ray's included")
    return common


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="stillhouse",
        parents=[_common(False)],
        description="Distil an ensemble of teachers into one student, on Ray.",
        epilog=_listed([COMMANDS[name].EXAMPLES[0] for name in FIRST]),
        formatter_class=argparse.RawDescriptionHelpFormatter,  # which keeps the lines of the examples
        allow_abbrev=False,  # an option of a later version may begin alike
    )
    parser.add_argument("--version", action="version", version=f"stillhouse {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=["bash", "zsh", "tcsh"],
        help="print completion for a shell",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        of_command = commands.add_parser(
            name,
            parents=[_common(argparse.SUPPRESS)],
            help=command.HELP,
            epilog=_listed(command.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(of_command)
    return parser
