"""Ctrl-C while a run starts: one line and the status, wherever it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from orchestrator.cluster import interrupts

STOPPED = f"stillhouse: {interrupts.STOPPED}\n"


def interrupted(code: str, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Run code that says `ready`, send it a signal; its status and what it wrote to stderr."""
    head = (
        "import sys, time\nfrom orchestrator.cli import command as cli\n"
        "from orchestrator.cluster import interrupts\nfrom workers.errors import RunError, TakenOver\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    return process.returncode, said


COMMAND = """
def command(asked):
    {0}
cli.COMMANDS['schema'].main = command
sys.exit(cli.main(['schema']))
"""
AT_ONCE = """with interrupts.at_once():
        print('ready', flush=True)
        try: time.sleep(30)
        except BaseException: pass
        print('went on', file=sys.stderr)"""
IN_A_DESTRUCTOR = """class Slow:
        def __del__(self):
            print('ready', flush=True)
            time.sleep(1)
    Slow()
    time.sleep(30)"""
AS_ANOTHER_ERROR = """print('ready', flush=True)
    try: time.sleep(30)
    except KeyboardInterrupt: raise {}('broken')"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "body",
    [AT_ONCE, IN_A_DESTRUCTOR, AS_ANOTHER_ERROR.format("ImportError"), AS_ANOTHER_ERROR.format("RunError")],
    ids=["at once", "in a destructor", "as another error", "as one of ours"],
)
def test_the_first_press_stops_it(body: str, number: signal.Signals) -> None:
    assert interrupted(COMMAND.format(body), number) == (interrupts.STATUS, STOPPED)


def test_a_run_that_another_took_over_has_failed() -> None:
    """It is ended by the same signal."""
    assert interrupted(COMMAND.format(AS_ANOTHER_ERROR.format("TakenOver"))) == (1, "stillhouse: broken\n")


def test_in_the_background_of_a_shell_it_is_ignored() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + COMMAND.format(
        AT_ONCE.replace("time.sleep(30)", "time.sleep(1)")
    )
    assert interrupted(code) == (0, "went on\n")


def test_a_callers_own_handlers_are_kept() -> None:
    """A run that is called from Python, where presses are not counted, ends no process."""
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started this behind itself
    try:
        before = signal.getsignal(signal.SIGINT)
        with interrupts.at_once():
            assert signal.getsignal(signal.SIGINT) is before
        with interrupts.counted():
            with interrupts.at_once():
                assert signal.getsignal(signal.SIGINT) is not before
            assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, ours)


def test_a_stop_that_takes_longer_is_announced() -> None:
    body = """print('ready', flush=True)
    try: time.sleep(30)
    finally: time.sleep(2 * interrupts.TELL_S + 0.5)"""
    assert interrupted(COMMAND.format(body)) == (
        interrupts.STATUS,
        f"warning: {interrupts.STOPPING}\n{STOPPED}",
    )
