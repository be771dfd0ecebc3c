"""Whether a tracker is there, by its address alone."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.observers import mlflow_uri
from workers.errors import RequestError


class Guarded(BaseHTTPRequestHandler):
    """A server behind a proxy that wants credentials."""

    accepted = ""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization", "") == self.accepted
        self.send_response(200 if known and self.path == "/health" else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Guarded) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.parametrize(
    ("at", "variables", "accepted"),
    [
        ("me:a%40b@", {}, "Basic " + base64.b64encode(b"me:a@b").decode()),
        ("", {"USERNAME": "me", "PASSWORD": "pw"}, "Basic " + base64.b64encode(b"me:pw").decode()),
        ("", {"TOKEN": "secret"}, "Bearer secret"),
        ("me:pw@", {"TOKEN": "secret"}, "Basic " + base64.b64encode(b"me:pw").decode()),
    ],
)
def test_credentials_are_those_that_mlflow_sends(
    at: str, variables: dict[str, str], accepted: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guarded, "accepted", accepted)
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with pytest.raises(RequestError, match="401"):
        mlflow_uri.reach(f"http://{server}/")
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    mlflow_uri.reach(f"http://{at}{server}/")


def test_certificates_of_mlflows_variables_are_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "none.pem"))
    with pytest.raises(RequestError, match="No such file"):
        mlflow_uri.reach("https://127.0.0.1:9")
    monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert not mlflow_uri._certificates().check_hostname


def test_a_path_that_a_database_url_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "why?" / "here"
    folder.mkdir(parents=True)
    with pytest.raises(RequestError, match=r"tracking.uri: .*'\?' ends the path.*set `tracking.uri`"):
        mlflow_uri.reach(f"sqlite:///{folder}/mlflow.db")
    assert [path.name for path in tmp_path.rglob("*")] == ["why?", "here"]
