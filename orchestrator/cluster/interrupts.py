"""Ctrl-C: the first press stops the run cleanly, the second ends it at once. SIGTERM, as of `ray job stop`, likewise.

Libraries may install their own handlers (Ray Train does, while it trains), so presses are counted independently.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

STATUS = 130
"""The exit status of a stopped run, by the convention of shells."""
STOPPED = "stopped. What was complete is kept; the same command resumes."
STOPPING = "stopping; press Ctrl-C once more to end at once"
TELL_S = 0.5
AGAIN_S = 0.02
STDERR = 2
SAME_PRESS_S = 0.3
"""Signals within this time are one press, since `timeout` and terminals signal both a process and its group."""

_pressed_s: float | None = None
"""Time of the first press."""
_counting = _ends_at_once = False
_ending = threading.Lock()


@contextmanager
def counted() -> Iterator[None]:
    """In this block, the second press ends the process; as after SIGKILL, completed results stay valid."""
    global _pressed_s, _counting
    _pressed_s, _counting = None, True
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    lost, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    terminate = signal.signal(signal.SIGTERM, _as_interrupt)
    counter = threading.Thread(target=_count, args=(receiver,), name="interrupts", daemon=True)
    counter.start()
    try:
        yield
    finally:
        _counting = False
        sys.unraisablehook = lost
        signal.signal(signal.SIGTERM, terminate)
        signal.set_wakeup_fd(before)
        sender.close()
        counter.join(timeout=1.0)  # it has counted every press by now


@contextmanager
def at_once() -> Iterator[None]:
    """In this block the first press ends the process, without an exception.

    It is for imports and the start of Ray: there is nothing to clean up yet, and libraries may lose or convert an
    exception that interrupts them. It applies only where presses are counted, so not to calls from Python.
    """
    global _ends_at_once
    numbers = (signal.SIGINT, signal.SIGTERM) if _counting else ()
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in heeded:
            signal.signal(number, _end_at_once)
        _ends_at_once = bool(heeded)
        yield
    finally:
        _ends_at_once = False
        for number in heeded:
            signal.signal(number, before[number])


def last_words(text: str) -> None:
    """Print one line to stderr from any thread, after clearing a progress line of the terminal."""
    clear = "\x1b[?25h\r\x1b[K" if os.isatty(STDERR) else ""  # a progress line hides the cursor
    with contextlib.suppress(OSError):
        os.write(STDERR, f"{clear}stillhouse: {text}\n".encode())


def end(text: str, status: int) -> None:
    """End this process from any thread, with one line. Only the first call has an effect."""
    if _ending.acquire(blocking=False):
        last_words(text)
        os._exit(status)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    end(STOPPED, STATUS)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat an interrupt that Python drops because it occurred in a destructor or a callback."""
    if lost.exc_type is KeyboardInterrupt:
        main = threading.main_thread().ident
        assert main is not None
        again = threading.Timer(AGAIN_S, signal.pthread_kill, (main, signal.SIGTERM))  # else it hits this hook
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def heed_sigterm() -> None:
    """Handle SIGTERM like Ctrl-C; call it after `ray.init`, which makes SIGTERM end the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _as_interrupt)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # raising SIGINT instead would count as a second press
    if not callable(handler):  # ignored, as by shells for background processes
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def pressed_for_s() -> float:
    """Seconds since the first press; 0 before it, or where presses are not counted."""
    return 0.0 if _pressed_s is None else time.monotonic() - _pressed_s


def _received(receiver: socket.socket) -> bytes:
    """Received signals; prints once that the run is stopping if that takes longer than `TELL_S`."""
    try:
        return receiver.recv(64)
    except TimeoutError:
        receiver.settimeout(None)
        logger.warning(STOPPING)
        return receiver.recv(64)


def _count(receiver: socket.socket) -> None:
    global _pressed_s
    with receiver:
        while signals := _received(receiver):
            if not {signal.SIGINT, signal.SIGTERM} & set(signals):
                continue
            if _ends_at_once:  # from here, since the main thread may be deep in Ray
                end(STOPPED, STATUS)
            now = time.monotonic()
            if _pressed_s is None:
                _pressed_s = now
                receiver.settimeout(TELL_S)
            elif now - _pressed_s > SAME_PRESS_S:
                end("ended at once. The same command resumes.", STATUS)
