"""Calls of the user's own code while a request is checked: whatever it raises is a `RequestError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workers.errors import RequestError


@contextmanager
def checked(before: str, after: str = ".", but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """What the block raises leaves it as a `RequestError`: `before`, the exception, `after`.

    A `RequestError`, and the classes of `but`, leave it as they are.
    """
    passed: tuple[type[Exception], ...] = (RequestError, *but)
    try:
        yield
    except passed:
        raise
    except (Exception, SystemExit) as error:  # also of sys.exit() in a model
        raise RequestError(f"{before} {type(error).__name__}: {error}{after}") from error
