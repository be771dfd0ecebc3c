"""A request that shows whether a server answers at a URL, which may hold a name and a password."""

from __future__ import annotations

import base64
import ssl
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit


def split(url: str) -> SplitResult:
    """The parts of a URL, whose `port` is valid.

    Raises: `ValueError`, without any text of the URL. With a `/` in its password, that would be taken for the port.
    """
    try:
        parts = urlsplit(url)
        int(parts.port or 0)
    except ValueError:
        raise ValueError(
            "no valid URL; expected a number up to 65535 as its port, and %2F, %40 and %23 for '/', '@' and '#' in a "
            "password"
        ) from None
    return parts


def get(
    url: str, path: str, headers: Mapping[str, str], timeout_s: float, context: ssl.SSLContext | None = None
) -> bytes:
    """The body of the answer to a GET request for `path` below `url`.

    The name and the password of the URL are sent by basic authentication, in place of an `Authorization` in `headers`.
    urllib itself would take them for a part of the host. context: the accepted certificates, for https.

    Raises: `OSError` without an answer, and as an `HTTPError` for one with an error status; `ValueError` for an invalid
    URL. Messages have no text of the URL.
    """
    parts = split(url)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + path)
    of_url = {} if parts.username is None else basic(unquote(parts.username), unquote(parts.password or ""))
    request = urllib.request.Request(urlunsplit(place), headers={**headers, **of_url})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as answer:
            return bytes(answer.read())
    except HTTPException as error:  # of a server of another protocol, or of a path with spaces
        raise ConnectionError(f"no answer by HTTP: {type(error).__name__}") from None


def basic(name: str, password: str) -> dict[str, str]:
    """The header of basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}
