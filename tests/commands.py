"""Commands that tests start: at the end of a block, a command is killed with all the processes that it started.

They are known by a mark, a variable of their environment that processes inherit. Each block has a variable of its own,
so blocks may be nested.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

STILLHOUSE = (sys.executable, "-m", "orchestrator.cli")
RUN_S = 400.0
"""How long a command may take."""
END_S = 30.0
"""How long killed processes may take to end."""
POLL_S = 0.1


def environment(**own: str) -> dict[str, str]:
    """The variables of this process and `own` ones, without the address of a Ray that a command would join."""
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | own


def new_mark() -> str:
    """The name of a new variable; a process whose environment sets it to 1 has the mark."""
    return f"STILLHOUSE_MARK_{uuid.uuid4().hex}"


def processes(mark: str, title: bytes = b"") -> list[int]:
    """Ids of the processes with a mark whose command line contains `title`; none where the system has no /proc."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or belongs to another user
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            has_mark = f"{mark}=1".encode() in (place / "environ").read_bytes().split(b"\0")
            if state != "Z" and has_mark and title in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return sorted(found)


def end(mark: str) -> None:
    """Kill all processes with a mark, and those that they start meanwhile."""
    until = time.monotonic() + END_S
    while (left := processes(mark)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


@contextlib.contextmanager
def ended(mark: str) -> Iterator[None]:
    """Kill all processes with a mark at the end of the block."""
    try:
        yield
    finally:
        end(mark)


@contextlib.contextmanager
def running(
    *command: object, env: Mapping[str, str] | None = None, mark: str = "", **how: Any
) -> Iterator[subprocess.Popen[str]]:
    """A command whose output goes to pipes, as text. The end of the block kills it and all that it started.

    env: its variables (default: `environment()`). mark: for `processes` (default: a new one). how: further arguments of
    `subprocess.Popen`.
    """
    mark = mark or new_mark()
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how
    variables = {**(environment() if env is None else env), mark: "1"}
    with subprocess.Popen([str(word) for word in command], env=variables, **how) as process, ended(mark):
        try:
            yield process
        finally:
            process.kill()  # also where the system has no /proc


def run(*command: object, timeout_s: float = RUN_S, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. how: as in `running`. Raises: `subprocess.TimeoutExpired` after `timeout_s` seconds."""
    with running(*command, **how) as process:
        out, err = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def output(*command: object, **how: Any) -> str:
    """What a command writes to stdout. how: as in `run`. Raises: AssertionError where its status is not 0."""
    done = run(*command, **how)
    assert done.returncode == 0, f"status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def wait_until(
    condition: Callable[[], object],
    timeout_s: float = 120.0,
    otherwise: str = "waited in vain",
    *,
    process: subprocess.Popen[str] | None = None,
) -> None:
    """Wait until a condition holds. Raises: AssertionError after `timeout_s` seconds, or where `process` ends first."""
    until = time.monotonic() + timeout_s
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate(timeout=END_S)}")
        assert time.monotonic() < until, otherwise
        time.sleep(POLL_S)


def restore_ctrl_c() -> None:
    """Enable SIGINT, which a shell disables for background processes; a `preexec_fn`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    """A port of loopback that no process listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
