"""The errors for users, by the action that a user has to take.

One base class, and a subclass for each exit status of a failed command. Messages are whole sentences that name
the key or file, the found and the expected value, and the remedy. Errors cross process boundaries, so each contains
only its message and can be pickled.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class StillhouseError(Exception):
    """Base of the errors that are shown to the user as one message, without a traceback."""

    exit_status = 1


class RunError(StillhouseError):
    """The run failed; complete artifacts are kept, and the same command resumes the run."""

    exit_status = 1


class TakenOver(RunError):
    """Another run took over the folder of this one, which ended itself as by Ctrl-C."""


class BadAnswer(RunError):
    """A member's output that yields no valid probabilities. `member`: its name."""

    def __init__(self, message: str, member: str) -> None:
        super().__init__(message, member)
        self.member = member

    def __str__(self) -> str:
        return str(self.args[0])


class RequestError(StillhouseError):
    """The request was wrong: arguments, configuration or data. Raised before any training."""

    exit_status = 2


class Unreachable(RequestError):
    """A remote storage failed at each attempt, which says nothing about what it holds."""


class MissingColumn(RequestError):
    """A file of the data has no column of a name that the configuration gives."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """A block in which the message of a `RequestError` begins with what it is about."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{what}: {error}") from error


class GateError(StillhouseError):
    """An export fell short of its thresholds, so nothing was written or registered."""

    exit_status = 3


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_few(what: Sequence[T], most: int, text: Callable[[T], str] = repr) -> str:
    """The first of several for a message, at most so many, and how many more there are."""
    more = f" and {len(what) - most} more" if len(what) > most else ""
    return ", ".join(map(text, what[:most])) + more
