"""An exception of a model, a device or storage in a worker process, as text that crosses process borders.

The class of a user's exception may be importable in the worker alone, and its traceback stays behind. So workers raise
a `Fault` in its place, which says what failed and where; the driver decides whether the work is tried again.
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
"""Where a component is that has not reached its first part or epoch."""
MOST_CHARACTERS, HEADLINE_CHARACTERS = 4000, 200
OF_RAY = "ray_terminate_msg"
"""Attribute of the SystemExit by which Ray ends a process."""
PEER_ERRORS = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError"})
PEER_SIGNS = ("gloo/transport", "connection closed by peer", "connection reset", "broken pipe")
"""How torch.distributed shows the end of another worker: by these classes, or a `RuntimeError` with such words."""


class Fault(Exception):
    """What was raised: the name of its class, its whole message, its traceback.

    of: the component that failed (`member-1`); empty where unknown. at: the part or epoch, counted from 0, or `START`.
    by_peer: whether it only shows that another worker ended.
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
        """One line of it."""
        line = str(self).strip().splitlines()[0]
        return line if len(line) <= HEADLINE_CHARACTERS else line[: HEADLINE_CHARACTERS - 3] + "..."


def fault(error: BaseException, of: str = "", at: int = START) -> Fault:
    """`error` as a `Fault`; errors that speak to the user keep their message alone."""
    kind = "" if isinstance(error, StillhouseError) else type(error).__name__
    trace = "".join(traceback.format_exception(error))
    return Fault(kind, _shortened(str(error).strip() or "no message"), trace, of, at=at, by_peer=is_by_peer(error))


@contextmanager
def caught(
    of: str = "", at: Callable[[], int] = lambda: START, but: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """What the block raises leaves it as a `Fault`; a `RunError`, which is about the run itself, and `but` as it is.

    at: asked when it is raised.
    """
    try:
        yield
    except (Exception, SystemExit) as error:  # of sys.exit() in a model, too
        if isinstance(error, (RunError, Fault, *but)) or hasattr(error, OF_RAY):
            raise
        raise fault(error, of, at()) from None  # its traceback is noted


def raises_faults(function: Callable[P, T]) -> Callable[P, T]:
    """`function` within `caught`."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with caught():
            return function(*args, **kwargs)

    return guarded


def is_by_peer(error: BaseException) -> bool:
    """Whether an error only shows that another worker of the same training ended."""
    if any(kind.__name__ in PEER_ERRORS for kind in type(error).__mro__):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(sign in text for sign in PEER_SIGNS)


def _shortened(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}\n[...]\n{text[-half:]}"
