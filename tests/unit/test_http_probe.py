"""A server is asked with the credentials of its URL, and no error quotes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.cli import submit
from orchestrator.cluster import http_probe
from orchestrator.observers import mlflow_uri
from workers.errors import RequestError

INVALID = ("http://me:hunt/er2@host", "http://me:hunter2@host:port", "http://me:hunter2@host:99999")
ASKED: dict[str, Callable[[str], object]] = {
    "probe": lambda url: http_probe.get(url, "/", {}, 1.0),
    "tracker": mlflow_uri.reach,
    "cluster": lambda url: submit._client(url).__enter__(),
}


@pytest.mark.parametrize("url", [*INVALID, "http://me:hunter2@ho\u2100st"])
@pytest.mark.parametrize("asked", ASKED)
def test_an_invalid_url_is_refused_without_its_password(url: str, asked: str) -> None:
    with pytest.raises((ValueError, RequestError), match="no valid URL; expected") as refused:
        ASKED[asked](url)
    assert "hunt" not in str(refused.value)


def test_a_database_without_a_valid_port_is_refused_without_its_password() -> None:
    with pytest.raises(RequestError, match=r"'postgresql://\*\*\*@host/db' \(no valid URL") as refused:
        mlflow_uri.reach("postgresql://me:hunt/er2@host/db")
    assert "hunt" not in str(refused.value)
