"""Ray's token: whether a cluster requires one, its source in this process, and a new one for a Ray started in place.

Ray 2.60 enables token authentication for every Ray that `ray.init` starts, and for a `ray start --head` where a token
is stored already. A client with an address never enables it by itself, so this module does. It first sends a request
without a token, and sends the token only to a cluster that rejects that request.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.error import HTTPError

from orchestrator.cluster import environment, http_probe, ray_private
from workers.errors import RequestError
from workers.redact import redacted

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
STORED = "~/.ray/auth_token"
_WHERE_FROM = (
    f"`ray get-auth-token` on the cluster's head prints it: set {TOKEN} to it, or store it in {STORED} "
    "(docs/CLUSTERS.md)."
)
TIMEOUT_S = 10.0


@contextmanager
def own_token() -> Iterator[None]:
    """Give a Ray that starts in the block a token that only the environment of its own processes holds.

    Without a token any user of this machine could run code as this one, through the open port. Ray itself would store a
    new token permanently in the home folder, and every later `ray start --head` would require it. An existing token or
    mode of the user stays in effect.
    """
    with _restored():
        if (MODE not in os.environ or is_on()) and not _token():
            os.environ[TOKEN] = secrets.token_hex(32)
            ray_private.read_environment_again()
        yield


@contextmanager
def of_cluster(address: str) -> Iterator[None]:
    """Set the authentication mode that the cluster at `host:port` requires, for the block.

    Raises: `RequestError` where the cluster requires a token, and this process has none or a wrong one.
    """
    with _restored():
        _settle(address, lambda token: ray_private.head_accepts(address, token, TIMEOUT_S))
        yield


@contextmanager
def of_dashboard(url: str) -> Iterator[None]:
    """`of_cluster` for the HTTP interface of a cluster's dashboard."""
    with _restored():
        _settle(url, lambda token: _dashboard_takes(url, token))
        yield


def is_on() -> bool:
    """Whether this process sends a token."""
    return os.environ.get(MODE, "").lower() == "token"


def _settle(place: str, takes: Callable[[str], bool]) -> None:
    """Set the mode of a cluster. takes: whether the cluster accepts a request with a token; empty for none."""
    place = redacted(place)
    if not is_on() and takes(""):
        os.environ.setdefault(MODE, "disabled")  # Ray turns it on for `auto` wherever a token is stored
        ray_private.read_environment_again()
        return
    wish = f"{MODE} is 'token'" if is_on() else f"the Ray cluster at '{place}' asks for a token"
    token = _token()
    if not token:
        raise RequestError(f"{wish}, and none is here. {_WHERE_FROM}")
    if not takes(token):
        which = f"the one of {_source()} is refused" + ("" if place in wish else f" by the Ray cluster at '{place}'")
        raise RequestError(f"{wish}, and {which}. {_WHERE_FROM}")
    os.environ[MODE] = "token"
    ray_private.read_environment_again()


def _source() -> str:
    """Where Ray reads the token, by its own order."""
    if os.environ.get(TOKEN):
        return TOKEN
    path = os.environ.get(TOKEN_PATH)
    return f"{TOKEN_PATH} ('{path}')" if path else STORED


def _token() -> str:
    """The token that Ray would send; empty where none exists.

    Raises: `RequestError` where RAY_AUTH_TOKEN_PATH is not a readable file.
    """
    path = os.environ.get(TOKEN_PATH)
    if path and not os.environ.get(TOKEN) and not os.access(path, os.R_OK):  # Ray would abort the process
        raise RequestError(f"{TOKEN_PATH}: '{path}' cannot be read. Name the file with the token, or unset it.")
    return ray_private.stored_token()


def _dashboard_takes(url: str, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        json.loads(http_probe.get(url, "/api/version", headers, TIMEOUT_S))
    except HTTPError as error:
        if error.code in (401, 403):
            return False
        raise
    return True


@contextmanager
def _restored() -> Iterator[None]:
    """Restore the environment after the block, since this process may join another cluster later."""
    try:
        with environment.restored(MODE, TOKEN):
            yield
    finally:
        ray_private.read_environment_again()
