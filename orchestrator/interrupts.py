"""Ctrl-C: once, and the run stops cleanly; again, and it ends at once. SIGTERM, as `ray job stop` sends it, likewise.

Whoever handles signals meanwhile (Ray Train does, while it trains) need not know: presses are counted beside it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130
"""The exit status of a run that was stopped, as shells have it."""
STOPPED = "stopped. What was complete is kept; the same command resumes."
SAME_PRESS_S = 0.3
"""Within which a second signal is the same press: `timeout` and terminals tell a process and its group."""

_pressed_s: float | None = None
"""When the first press was."""


@contextmanager
def counted() -> Iterator[None]:
    """While the block lasts, the second press ends the process: as with SIGKILL, all that is complete is kept."""
    global _pressed_s
    _pressed_s = None
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_count, args=(heard,), name="interrupts", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        told.close()


def heed_sigterm() -> None:
    """SIGTERM interrupts as Ctrl-C does; to be called after `ray.init`, which lets it end the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _as_interrupt)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # raising SIGINT instead would count as a second press
    if not callable(handler):  # ignored, as a shell lets what it starts in the background
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def pressed_for_s() -> float:
    """How long ago the first press was; 0 where there was none, or nobody counts."""
    return 0.0 if _pressed_s is None else time.monotonic() - _pressed_s


def _count(heard: socket.socket) -> None:
    global _pressed_s
    with heard:
        while told := heard.recv(64):
            if not {signal.SIGINT, signal.SIGTERM} & set(told):
                continue
            now = time.monotonic()
            if _pressed_s is None:
                _pressed_s = now
            elif now - _pressed_s > SAME_PRESS_S:
                print("stillhouse: ended at once. The same command resumes.", file=sys.stderr, flush=True)
                os._exit(STATUS)
