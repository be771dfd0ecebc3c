"""Watches the Ray that a run started in place, until the run ends.

Ray reports the death of one of its vital processes late, and in an unclear message. It treats a process stopped by
SIGSTOP as slow, and may wait for it for ever.
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
"""Rounds between searches for stopped processes, which are slow with thousands of processes."""
STOPPED_S = 60.0
"""How long a process may be stopped, not counting time in which this process itself was stopped."""
ANSWER_S = 2.0
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
DEEPEST = LONGEST_SOCKET - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
"""Longest path of Ray's temporary folder, in bytes, so that the paths of its sockets are not too long."""
PLAIN = re.compile(r"[\w/.,:=+@-]*", re.ASCII)
"""Paths that Ray supports: it splits commands at spaces, and encodes paths as ASCII."""
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
RAYLET, GCS = "raylet", "gcs_server"
VITAL = frozenset({RAYLET, GCS})
"""Names of Ray's vital processes."""


@contextmanager
def temporary_folder() -> Iterator[str | None]:
    """The temporary folder for a Ray that starts in the block; None: Ray's default.

    Ray puts its sockets there, and a socket's path is limited to about a hundred bytes. If the path is too long, or has
    spaces or other characters that Ray does not support, Ray gets a short link to it. So its files are still in TMPDIR.
    Raises: `RequestError` with the variable's name where the folder cannot be used.
    """
    named = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = os.path.abspath(ray_private.temporary_folder())
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(
            f"Ray's temporary folder '{folder}' cannot be written ({error.strerror}). Expected a folder that this user "
            f"may write: set {named or 'TMPDIR'} to one."
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
    """A new private folder (mode 0700) with a short path."""
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
    """In this block, a watcher kills stopped workers of Ray, and ends the run where a vital process is lost."""
    node = ray_private.local_node()
    over = threading.Event()
    threading.Thread(target=_watch, args=(node, over), name="watcher of Ray", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for lost in _lost(node):  # the shutdown failed as well
            _end(node, lost)


def _watch(node: Any, over: threading.Event) -> None:
    times: Counter[int] = Counter()
    for watched in itertools.count():
        if over.wait(WATCH_S):
            return
        vital = {process.pid: name for name, process in node.live_processes() if name in VITAL}
        lost = _lost(node)
        # A head that received the same signal lingers, but does not respond.
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
    """Vital processes that have died."""
    return [name for name, _ in node.dead_processes() if name in VITAL]


def _stopped(vital: dict[int, str]) -> list[int]:
    """Stopped processes among Ray's vital ones and its workers, which are children of the raylet."""
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
    """End this process, since Ray no longer responds, and the rest of Ray."""
    if interrupts.pressed_for_s():  # the whole process group received the signal
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
