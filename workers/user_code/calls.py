"""Calls of the user's own code during validation of a request: any exception becomes a `RequestError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workers.errors import RequestError


@contextmanager
def checked(before: str, after: str = ".", but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Convert the block's exceptions to `RequestError` with the message `before`, the exception, `after`.

    A `RequestError` and the classes in `but` are not converted.
    """
    passed: tuple[type[Exception], ...] = (RequestError, *but)
    try:
        yield
    except passed:
        raise
    except (Exception, SystemExit) as error:  # SystemExit: a model may call sys.exit()
        raise RequestError(f"{before} {type(error).__name__}: {error}{after}") from error
