"""Tracker URIs: which trackers MLflow can write to, and whether one is reachable."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import ssl
import time
import uuid
from pathlib import Path

from orchestrator.cluster import http_probe
from workers import storage
from workers.errors import RequestError
from workers.redact import redacted

SQLITE = "sqlite:///"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Databases that MLflow connects to directly, with their default ports."""
REACH_TIMEOUT_S = 5.0
ABANDONED_S = 600.0
"""Age after which an incomplete database counts as abandoned."""

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where the results go
    "MLFLOW_DISABLE_TELEMETRY": "true",  # as Ray's; and its threads compete for an environment variable
}
"""Environment variables that MLflow reads when it is imported; a value that the user has set is kept."""
QUIET = {"alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR, "mlflow.system_metrics": logging.ERROR}
"""Log levels of MLflow's parts, which log each table and each retry; the tracker reports the final failures."""


def prepare() -> None:
    """Set the variables that the user has not set; call it before anything imports MLflow."""
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database; None for a server or another database."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def reach(uri: str) -> None:
    """Raise `RequestError` unless an MLflow tracker is reachable at `uri`; leaves no files."""
    try:
        parts = http_probe.split(uri)
        file, database = sqlite_file(uri), parts.scheme.partition("+")[0]
        if parts.scheme in ("http", "https"):
            context = _certificates() if parts.scheme == "https" else None
            http_probe.get(uri, "/health", _authorization(), REACH_TIMEOUT_S, context)
        elif file is not None and "?" in uri:
            raise ValueError("its '?' ends the path, since options follow it in the URL of a database")
        elif file is not None:
            _reach_sqlite(file)
        elif database in DATABASE_PORTS:
            port = parts.port or DATABASE_PORTS[database]
            socket.create_connection((parts.hostname or "localhost", port), timeout=REACH_TIMEOUT_S).close()
        else:
            raise ValueError("no kind of tracker")
    except (OSError, ValueError, sqlite3.Error) as error:
        raise RequestError(
            f"tracking.uri: no MLflow tracker at '{redacted(uri)}' ({error}). Expected sqlite:///PATH in a "
            "folder that can be written, the http(s) URL of a running server, or a database; start it, or set "
            "`tracking.uri`."
        ) from None


def _authorization() -> dict[str, str]:
    """The header with the name and password, or the token, of MLflow's variables."""
    name, password, token = (os.environ.get(f"MLFLOW_TRACKING_{of}") for of in ("USERNAME", "PASSWORD", "TOKEN"))
    if name and password is not None:
        return http_probe.basic(name, password)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _certificates() -> ssl.SSLContext:
    """The certificates that MLflow's client accepts, by its own variables."""
    trusted = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    folder = trusted if trusted and os.path.isdir(trusted) else None
    context = ssl.create_default_context(cafile=None if folder else trusted or None, capath=folder)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _reach_sqlite(path: Path) -> None:
    if path.exists():
        with sqlite3.connect(path) as database:
            database.execute("select count(*) from sqlite_master")
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written")
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}")
    elif not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent} cannot be written")


def make_whole(path: Path) -> None:
    """Create MLflow's database under a temporary name, then move it into place.

    MLflow can never open a database whose creation was interrupted.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f"{path.name}.*{storage.PARTIAL}"):
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            left.unlink(missing_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{storage.PARTIAL}")
    try:
        store = SqlAlchemyStore(f"{SQLITE}{partial}", artifacts(f"{SQLITE}{path}"))  # type: ignore[no-untyped-call]
        store.engine.dispose()
        getattr(SqlAlchemyStore, "_engine_map", {}).pop(f"{SQLITE}{partial}", None)  # MLflow never evicts it
        try:
            os.link(partial, path)
        except FileExistsError:  # another run created it first
            pass
        except OSError:  # a file system without links
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def artifacts(uri: str) -> str | None:
    """The artifact location: beside a SQLite file; None for a server, which has its own."""
    file = sqlite_file(uri)
    return None if file is None else (file.parent / "mlruns").as_uri()
