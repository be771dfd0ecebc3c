"""Retries of requests to a remote storage, and the errors that a retry cannot mend."""

from __future__ import annotations

import gzip
import logging
import lzma
import time
import zipfile
import zlib
from collections.abc import Callable
from typing import TypeVar

from workers.errors import RequestError, Unreachable
from workers.storage.locations import is_local

logger = logging.getLogger(__name__)
T = TypeVar("T")
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waiting times in seconds before each retry of a request to a remote storage."""
LACKS_ACCESS = "Credentials"
"""In the names of the errors by which clients of object stores report that they find no credentials."""
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
"""What decompression raises for a damaged file."""
ANSWERS = (
    FileNotFoundError, NotADirectoryError, FileExistsError, RequestError, ImportError, MemoryError, *DAMAGED,
)  # fmt: skip
"""Exceptions that say something about a file, and are not raised by a storage that fails."""


def patiently(uri: str, ask: Callable[[], T]) -> T:
    """Send a request to the storage of `uri`, with retries if the storage is remote.

    ask: sends the request, which must be idempotent.

    Raises: `RequestError` where a remote storage denies access, or fails all the same; FileNotFoundError,
    FileExistsError, and errors of local files and of compressed ones.
    """
    if is_local(uri):
        return ask()
    for wait_s in (*BACK_OFF_S, None):
        try:
            return ask()
        except ANSWERS:
            raise
        except Exception as error:  # each storage has its own error classes
            if isinstance(error, PermissionError) or LACKS_ACCESS in type(error).__name__:
                raise RequestError(
                    f"'{uri}': no access ({brief(error)}). Give this process the credentials of the storage, by "
                    "environment variables or its configuration file."
                ) from error
            if wait_s is None and isinstance(error, ValueError):  # of what reads the file
                raise
            if wait_s is None:
                raise Unreachable(
                    f"'{uri}': cannot be accessed ({brief(error)}). Check the URI, and that this machine reaches the "
                    "storage."
                ) from error
            logger.warning("storage: %s; asked again in %g s", brief(error), wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
