"""With which token a cluster is joined, and that nothing of it is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from orchestrator.cluster import authentication, ray_private
from workers.errors import RequestError


@pytest.fixture(autouse=True)
def settings_are_read_again() -> Any:
    """Last of all, once the environment is as before: the Ray of other tests in this process needs its own token."""
    yield
    ray_private.read_environment_again()


@pytest.fixture(autouse=True)
def home(settings_are_read_again: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and Ray's defaults."""
    for name in (authentication.MODE, authentication.TOKEN, authentication.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_private.read_environment_again()
    return tmp_path


def settings() -> tuple[str | None, str | None]:
    return os.environ.get(authentication.MODE), os.environ.get(authentication.TOKEN)


def store(home: Path, token: str) -> None:
    (home / ".ray").mkdir(exist_ok=True)
    (home / ".ray" / "auth_token").write_text(token)
    ray_private.read_environment_again()


def test_a_ray_in_place_has_a_token_that_is_nowhere_afterwards(home: Path) -> None:
    seen = []
    for _ in range(2):
        with authentication.own_token():
            mode, token = settings()
            assert mode is None and token is not None and len(token) == 64, "Ray turns it on by itself"
            assert authentication._token() == token
            seen.append(token)
    assert seen[0] != seen[1] and settings() == (None, None) and not (home / ".ray").exists()


def test_a_token_or_a_mode_of_the_user_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(home, "stored")
    with authentication.own_token():
        assert settings() == (None, None) and authentication._token() == "stored"
    (home / ".ray" / "auth_token").unlink()
    monkeypatch.setenv(authentication.MODE, "disabled")
    with authentication.own_token():
        assert settings() == ("disabled", None)
    assert settings() == ("disabled", None)


def test_the_environment_is_given_back_after_an_error() -> None:
    with pytest.raises(ValueError), authentication.own_token():
        os.environ[authentication.MODE] = "token"  # as `ray.init` does
        raise ValueError
    assert settings() == (None, None)


Serving = Callable[[str | None], str]
"""The token that a cluster wants, or None -> its address."""


@pytest.fixture(params=["head", "dashboard"])
def joined(request: pytest.FixtureRequest) -> Any:
    """`joined(token)`: the block in which a cluster is joined that wants this token, or none."""
    return {"head": _head, "dashboard": _dashboard}[request.param]


def _head(wanted: str | None) -> Any:
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    messages: Any = gcs_service_pb2

    class Service(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
        def GetClusterId(self, request: Any, context: Any) -> Any:
            given = dict(context.invocation_metadata()).get("authorization")
            if wanted is not None and given != f"Bearer {wanted}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return messages.GetClusterIdReply(cluster_id=b"1" * 28)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _servers.append(server)
    return authentication.of_cluster(f"127.0.0.1:{port}")


def _dashboard(wanted: str | None) -> Any:
    def status(given: str | None) -> int:
        return 200 if wanted is None or given == f"Bearer {wanted}" else 401 if given is None else 403

    return authentication.of_dashboard(f"http://127.0.0.1:{_http_server(status)}/")


def _http_server(status: Callable[[str | None], int]) -> int:
    """The port of a server that answers by the status of a request's `Authorization`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status(self.headers.get("Authorization")))
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    _servers.append(server)
    return server.server_port


_servers: list[Any] = []
"""Kept up until the tests are over."""


def test_a_cluster_that_wants_none_gets_none(joined: Any, home: Path) -> None:
    store(home, "stored")  # as another Ray of this machine left it
    with joined(None):
        assert settings() == ("disabled", None) and not authentication.is_on()
    assert settings() == (None, None)


@pytest.mark.parametrize("place", ["stored", "variable", "file"])
def test_the_token_is_used_where_it_lies(place: str, joined: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "stored":
        store(home, "right")
    elif place == "variable":
        monkeypatch.setenv(authentication.TOKEN, "right")
    else:
        (home / "elsewhere").write_text("right")
        monkeypatch.setenv(authentication.TOKEN_PATH, str(home / "elsewhere"))
    ray_private.read_environment_again()
    with joined("right"):
        assert os.environ[authentication.MODE] == "token" and authentication.is_on()
    assert authentication.MODE not in os.environ


def test_what_to_do_without_a_token(joined: Any) -> None:
    with (
        pytest.raises(RequestError, match=r"asks for a token, and none is here. `ray get-auth-token`"),
        joined("right"),
    ):
        pass


def test_a_token_that_is_refused_is_named_by_its_place(joined: Any, home: Path) -> None:
    store(home, "wrong")
    with (
        pytest.raises(RequestError, match=r"asks for a token, and the one of ~/.ray/auth_token is refused"),
        joined("right"),
    ):
        pass
    assert settings() == (None, None)


def test_what_ray_would_abort_on(joined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(authentication.TOKEN_PATH, "/nowhere")
    with pytest.raises(RequestError, match="RAY_AUTH_TOKEN_PATH: '/nowhere' cannot be read"), joined("right"):
        pass
    monkeypatch.delenv(authentication.TOKEN_PATH)
    monkeypatch.setenv(authentication.MODE, "token")
    with pytest.raises(RequestError, match="RAY_AUTH_MODE is 'token', and none is here"), joined(None):
        pass


def test_what_does_not_answer() -> None:
    with pytest.raises(ConnectionError, match="UNAVAILABLE"), authentication.of_cluster("127.0.0.1:9"):
        pass


def test_the_name_and_the_password_of_a_dashboards_url_are_sent() -> None:
    port = _http_server(lambda given: 200 if given == "Basic bWU6cEB3" else 401)  # of me:p@w
    with authentication.of_dashboard(f"http://me:p%40w@127.0.0.1:{port}"):
        assert settings() == ("disabled", None)
    with (
        pytest.raises(RequestError, match=r"at 'http://\*\*\*@127.0.0.1:\d+' asks for a token") as refused,
        authentication.of_dashboard(f"http://me:hunter2@127.0.0.1:{port}"),
    ):
        pass
    assert "hunter2" not in str(refused.value)
