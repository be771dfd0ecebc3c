"""Watch the Ray that a run started in place, for as long as the run lasts.

Ray reports late, and in words of its own, that one of its vital processes was killed. And to Ray a process that is
stopped by SIGSTOP is only slow: Ray may wait for it for ever.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from orchestrator.cluster import interrupts, ray_private
from workers.errors import RequestError, RunError

logger = logging.getLogger(__name__)

WATCH_S = 1.0
LOOK = 5
"""Every so many rounds, look for stopped processes; with thousands of processes that takes longer."""
STOPPED_S = 60.0
"""How long a process may be stopped. Only time in which this one is awake counts."""
ANSWER_S = 2.0
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
DEEPEST = LONGEST_SOCKET - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
"""Bytes that the path of Ray's temporary folder may have, so that those of its sockets are not too long."""
PLAIN = re.compile(r"[\w/.,:=+@-]*", re.ASCII)
"""Paths that Ray takes: it splits commands at spaces, and encodes paths as ASCII."""
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
RAYLET, GCS = "raylet", "gcs_server"
VITAL = frozenset({RAYLET, GCS})
"""What Ray calls those of its processes that it cannot do without."""


@contextmanager
def temporary_folder() -> Iterator[str | None]:
    """Ray's temporary folder, for a Ray that is started in the block; None: where Ray puts it by itself.

    Ray's sockets lie in it, and a socket's path has a limit of about a hundred bytes. Where it is too deep, or has
    spaces or other characters that Ray does not take, a short link leads to it: what Ray writes lies where TMPDIR says
    all the same.

    Raises: `RequestError`, naming the variable, where the folder cannot be used.
    """
    named = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = os.path.abspath(ray_private.temporary_folder())
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(
            f"Ray's temporary folder '{folder}' cannot be written ({error.strerror}). "
            f"{f'{named} names it' if named else 'Set TMPDIR to another'}: expected a folder that can be written."
        ) from error
    if len(os.fsencode(folder)) <= DEEPEST and PLAIN.fullmatch(folder):
        yield None
        return
    private = _short_folder(named)
    link = os.path.join(private, "ray")
    try:
        os.symlink(folder, link)
        yield link
    finally:
        with contextlib.suppress(OSError):
            os.unlink(link)
            os.rmdir(private)


def _short_folder(named: str | None) -> str:
    """A new folder of this user alone (mode 0700) whose path is short."""
    for place in SHORT_PLACES:
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(prefix="stillhouse-", dir=place)
    raise RequestError(
        f"{named}: '{os.environ.get(named or '')}' is no path for Ray's sockets, which have room for "
        f"{DEEPEST - len('/ray')} plain characters of it, and none of {', '.join(SHORT_PLACES)} can be written for a "
        "link to it. Set it to a shorter path without spaces."
    )


@contextmanager
def watched() -> Iterator[None]:
    """While the block lasts, stopped processes are ended as if they had died, and the run where they are vital."""
    node = ray_private.local_node()
    over = threading.Event()
    threading.Thread(target=_watch, args=(node, over), name="watcher of Ray", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for lost in _lost(node):  # it could not be shut down either
            _end(node, lost)


def _watch(node: Any, over: threading.Event) -> None:
    times: Counter[int] = Counter()
    for watched in itertools.count():
        if over.wait(WATCH_S):
            return
        vital = {process.pid: name for name, process in node.live_processes() if name in VITAL}
        lost = _lost(node)
        # A head that got the same signal lingers and answers no call.
        if interrupts.pressed_for_s() and not ray_private.head_answers(ANSWER_S):
            lost.append(GCS)
        if watched % LOOK == 0:
            times = Counter({pid: times[pid] + 1 for pid in _stopped(vital)})
        for pid in [pid for pid, seen in times.items() if seen * LOOK * WATCH_S > STOPPED_S]:
            del times[pid]
            if pid in vital:
                lost.append(vital[pid])
                continue
            logger.warning("process %d of Ray's was stopped for %g s, and is ended", pid, STOPPED_S)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if lost and not over.is_set():
            _end(node, lost[0])


def _lost(node: Any) -> list[str]:
    """What is vital and dead."""
    return [name for name, _ in node.dead_processes() if name in VITAL]


def _stopped(vital: dict[int, str]) -> list[int]:
    """Those of Ray's vital processes and of its workers, which are children of the raylet, that are stopped."""
    found = []
    for pid, name in vital.items():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for each in [process, *(process.children() if name == RAYLET else [])]:
                with contextlib.suppress(psutil.Error):
                    if each.status() == psutil.STATUS_STOPPED:
                        found.append(each.pid)
    return found


def _end(node: Any, lost: str) -> None:
    """End this process, which can ask nothing of Ray any more, and what is left of Ray."""
    if interrupts.pressed_for_s():  # the signal went to the whole group
        text, status = interrupts.STOPPED, interrupts.STATUS
    else:
        status = RunError.exit_status
        text = (
            f"Ray's own process '{lost}' is gone or was stopped, by a signal or by the system for want of memory. "
            "What was complete is kept; the same command resumes."
        )
    interrupts.last_words(text)
    with contextlib.suppress(Exception):
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(status)
