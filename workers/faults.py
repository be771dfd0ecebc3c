"""An exception of a model, a device or storage in a worker process, as text that crosses process boundaries.

The class of a user's exception may only be importable in the worker, and tracebacks are not pickled. So workers raise a
`Fault` instead, which names the failed component and its position. The driver decides whether to retry the work.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from workers.errors import RunError, StillhouseError

P = ParamSpec("P")
T = TypeVar("T")

START = -1
"""Position of a component before its first part or epoch."""
MOST_CHARACTERS, HEADLINE_CHARACTERS = 4000, 200
OF_RAY = "ray_terminate_msg"
"""Attribute of the SystemExit by which Ray ends a process."""
PEER_ERRORS = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError"})
PEER_SIGNS = ("gloo/transport", "connection closed by peer", "connection reset", "broken pipe")
"""Signs in errors of torch.distributed that another worker ended: these classes, or a `RuntimeError` with such text."""


class Fault(Exception):
    """An exception as text: the name of its class, its whole message, its traceback.

    of: the component that failed (`member-1`); empty where unknown. at: the part or epoch, counted from 0, or `START`.
    by_peer: whether the cause is only that another worker ended.
    """

    def __init__(
        self, kind: str, message: str, trace: str = "", of: str = "", *, at: int = START, by_peer: bool = False
    ) -> None:
        super().__init__(kind, message, trace, of)
        self.kind, self.message, self.trace = kind, message, trace
        self.of, self.at, self.by_peer = of, at, by_peer
        if trace:
            self.add_note(trace)  # printed with the driver's own traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Fault, at=self.at, by_peer=self.by_peer), self.args

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.kind else self.message

    @property
    def headline(self) -> str:
        """A summary in one line."""
        line = str(self).strip().splitlines()[0]
        return line if len(line) <= HEADLINE_CHARACTERS else line[: HEADLINE_CHARACTERS - 3] + "..."


def fault(error: BaseException, of: str = "", at: int = START) -> Fault:
    """`error` as a `Fault`; of errors for users only the message, without the class."""
    kind = "" if isinstance(error, StillhouseError) else type(error).__name__
    trace = "".join(traceback.format_exception(error))
    return Fault(kind, _shortened(str(error).strip() or "no message"), trace, of, at=at, by_peer=is_by_peer(error))


@contextmanager
def caught(
    of: str = "", at: Callable[[], int] = lambda: START, but: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Convert the block's exceptions to `Fault`, except a `RunError`, which concerns the whole run, and those in `but`.

    at: returns the position; called when an exception is raised.
    """
    try:
        yield
    except (Exception, SystemExit) as error:  # SystemExit: a model may call sys.exit()
        if isinstance(error, (RunError, Fault, *but)) or hasattr(error, OF_RAY):
            raise
        raise fault(error, of, at()) from None  # the note has the traceback


def raises_faults(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap `function` in `caught`."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with caught():
            return function(*args, **kwargs)

    return guarded


def is_by_peer(error: BaseException) -> bool:
    """Whether an error is only a consequence of the end of another worker of the same training."""
    if any(kind.__name__ in PEER_ERRORS for kind in type(error).__mro__):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(sign in text for sign in PEER_SIGNS)


def _shortened(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}\n[...]\n{text[-half:]}"
