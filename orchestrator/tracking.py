"""MLflow: one parent run for a `stillhouse run`, a nested run for each system.

A tracker that cannot be reached ends the request before anything starts. Later failures warn, once, and the run goes
on: `events.jsonl` and the report hold everything that would have been sent.
"""

from __future__ import annotations

import base64
import logging
import os
import socket
import sqlite3
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import yaml

from orchestrator import plots
from orchestrator.config import RunConfig
from orchestrator.report import COMPARED, Report, as_json, markdown
from workers import storage
from workers.errors import RequestError
from workers.secrets import hidden

if TYPE_CHECKING:
    from workers.train_loop import Epoch

logger = logging.getLogger(__name__)

SQLITE = "sqlite:///"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Databases that MLflow speaks to itself, and where they listen unless the URI says so."""
REACH_TIMEOUT_S = 5.0
MAX_FAILURES = 3
"""Calls in a row that fail before the tracker is left alone: each may take its whole time-out."""
LEFT_ALONE_S = 60.0
ABANDONED_S = 600.0
"""After which a database that is not whole yet is nobody's."""

TEST_ACCURACY = "test_accuracy"
TEST_NLL = "test_nll"
TEST_ECE = "test_ece"
PARAMETERS = "parameters"
LATENCY_P50 = "latency_ms_p50"
LATENCY_P99 = "latency_ms_p99"
TRAIN_LOSS = "train_loss"
VALIDATION_ACCURACY = "validation_accuracy"
GAIN_TRANSFERRED = "gain_transferred"
ROLE = "stillhouse.role"


def reach(uri: str) -> None:
    """Raise `RequestError` unless an MLflow tracker can be had at `uri`; leaves nothing behind."""
    try:
        parts = urlsplit(uri)
        database = parts.scheme.partition("+")[0]
        if parts.scheme in ("http", "https"):
            _reach_server(parts)
        elif uri.startswith(SQLITE):
            _reach_sqlite(Path(uri.removeprefix(SQLITE)))
        elif database in DATABASE_PORTS:
            port = parts.port or DATABASE_PORTS[database]
            socket.create_connection((parts.hostname or "localhost", port), timeout=REACH_TIMEOUT_S).close()
        else:
            raise ValueError("no kind of tracker")
    except (OSError, ValueError, sqlite3.Error, HTTPException) as error:
        raise RequestError(
            f"tracking.uri: no MLflow tracker at '{hidden(uri)}' ({error}). Expected sqlite:///PATH in a "
            "folder that can be written, the http(s) URL of a running server, or a database; start it, or set "
            "`tracking.uri`."
        ) from None


def _reach_server(parts: SplitResult) -> None:
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health")
    request = urllib.request.Request(urlunsplit(place))
    if parts.username is not None:  # urllib takes no name and password in the URL
        named = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(named.encode()).decode())
    urllib.request.urlopen(request, timeout=REACH_TIMEOUT_S).close()


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


class Tracker:
    """The MLflow runs of one `stillhouse run`, open as long as it lasts."""

    def __init__(self, config: RunConfig, again: str | None = None) -> None:
        """Open the parent run, or the one that is known as `again`, to send what it has not got.

        Raises: `RequestError` where the tracker refuses.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # its notes on database tables are no news of a run
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line a try; what comes of them is said
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = config.tracking.uri
        try:
            if uri.startswith(SQLITE):
                _make_whole(Path(uri.removeprefix(SQLITE)))
            self.client = MlflowClient(uri)
            experiment = self.client.get_experiment_by_name(config.tracking.experiment)
            self.experiment_id = (
                experiment.experiment_id
                if experiment
                else self.client.create_experiment(config.tracking.experiment, artifact_location=_artifacts(uri))
            )
            self._runs: dict[str, str] = {}
            self._roles: dict[str, str] = {}
            self.run_id = self._find(again) or self._create(config.name, "run", parent=None)
        except (MlflowException, OSError, ValueError) as error:
            raise RequestError(
                f"tracking: the tracker at '{hidden(uri)}' refused experiment '{config.tracking.experiment}' ({error})."
            ) from error
        self._config = config
        self._failures = 0
        self._left_alone_s = 0.0
        self.missed: str | None = None
        """Why something was not sent, the last time; None where all was."""
        self._warned = False
        self._attempt(self._describe, config)

    def system(self, name: str, role: str) -> None:
        """Open the nested run of one system, unless there is one."""
        self._roles[name] = role
        self._attempt(self._run_of, name)

    def epoch(self, name: str, epoch: Epoch) -> None:
        """Send one epoch of a system's training."""
        self._attempt(self._send_epoch, name, epoch)

    def epochs(self, name: str, history: Sequence[Epoch]) -> None:
        """Send those epochs of a system that the tracker has not got."""

        def send() -> None:
            there = {metric.step for metric in self.client.get_metric_history(self._run_of(name), VALIDATION_ACCURACY)}
            for epoch in history:
                if epoch.epoch + 1 not in there:
                    self._send_epoch(name, epoch)

        self._attempt(send)

    def catch_up(self, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
        """Send what the tracker has not got of the systems and their epochs."""
        self._failures, self.missed = 0, None
        self._attempt(self._describe, self._config)
        for system in report.systems:
            self.system(system.name, system.role)
            self.epochs(system.name, histories.get(system.name, ()))

    def report(self, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
        """Send every figure of the report, its tables and its plots."""
        for system in report.systems:
            figures = {
                TEST_ACCURACY: system.test.accuracy,
                TEST_NLL: system.test.nll,
                TEST_ECE: system.test.ece,
                PARAMETERS: float(system.parameters),
                LATENCY_P50: system.latency_ms.p50,
                LATENCY_P99: system.latency_ms.p99,
                **{f"test_{name}": value for name, value in (system.test.model_extra or {}).items()},
            }
            self._attempt(self._metrics, system.name, figures, 0, time.time())
        self._attempt(self._summarise, report, histories)

    def close(self, status: str) -> None:
        """End all runs: FINISHED, FAILED or KILLED."""
        self._failures = 0  # asked once more, whatever was before
        for run_id in (*self._runs.values(), self.run_id):
            self._attempt(self.client.set_terminated, run_id, status)
        engine = getattr(self.client._tracking_client.store, "engine", None)
        if engine is not None:  # MLflow keeps a database's connections open for as long as the process lives
            engine.dispose()

    def _find(self, run_id: str | None) -> str | None:
        """The run that was opened as `run_id`, with its nested ones; None where the tracker has none."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        nested = self.client.search_runs([self.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
        self._runs = {run.data.tags["mlflow.runName"]: run.info.run_id for run in nested}
        return run_id

    def _run_of(self, name: str) -> str:
        """A system's nested run; opened now where the tracker was down when it was to be."""
        if name not in self._runs:
            self._runs[name] = self._create(name, self._roles[name], parent=self.run_id)
        return self._runs[name]

    def _create(self, name: str, role: str, parent: str | None) -> str:
        tags = {ROLE: role, "mlflow.runName": name}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run_id: str = self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        return run_id

    def _describe(self, config: RunConfig) -> None:
        from mlflow.entities import Param

        text = hidden(config.to_yaml())
        params = [Param(key, str(value)[:500]) for key, value in _flat(yaml.safe_load(text))]
        self.client.log_batch(self.run_id, params=params[:100])
        self.client.log_text(self.run_id, text, "config.yaml")

    def _send_epoch(self, name: str, epoch: Epoch) -> None:
        """As of when it ended: MLflow orders by that, and epochs may be heard of late and out of order."""
        figures = {
            TRAIN_LOSS: epoch.train_loss,
            VALIDATION_ACCURACY: epoch.validation_accuracy,
            "validation_nll": epoch.validation_nll,
            "epoch_seconds": epoch.seconds,
        }
        self._metrics(name, figures, epoch.epoch + 1, epoch.ended_s or time.time())

    def _metrics(self, name: str, figures: Mapping[str, float], step: int, at_s: float) -> None:
        from mlflow.entities import Metric

        at_ms = int(at_s * 1000)
        self.client.log_batch(
            self._run_of(name), metrics=[Metric(key, value, at_ms, step) for key, value in figures.items()]
        )

    def _summarise(self, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
        if report.gain_transferred is not None:
            self.client.log_metric(self.run_id, GAIN_TRANSFERRED, report.gain_transferred)
        for role in COMPARED:
            figure = report.system(role).test.accuracy
            self.client.log_metric(self.run_id, f"{role}_test_accuracy", figure)
        table = {
            "system": [s.name for s in report.systems],
            "role": [s.role for s in report.systems],
            **{
                m: [s.test.figure(m) for s in report.systems] for m in ("accuracy", "nll", "ece", *report.extra_metrics)
            },
            PARAMETERS: [s.parameters for s in report.systems],
            LATENCY_P99: [s.latency_ms.p99 for s in report.systems],
        }
        self.client.log_table(self.run_id, table, "comparison.json")
        self.client.log_text(self.run_id, markdown(report), "report.md")
        self.client.log_text(self.run_id, as_json(report), "report.json")
        for name, figure_ in plots.figures(report, histories).items():
            self.client.log_figure(self.run_id, figure_, f"plots/{name}")

    def _attempt(self, send: Callable[..., Any], *arguments: Any) -> None:
        """Send; a failure after set-up is said once, and a tracker that goes on failing is left alone for a while."""
        if self._failures >= MAX_FAILURES and time.monotonic() < self._left_alone_s:
            return
        try:
            send(*arguments)
            self._failures = 0
        except Exception as error:  # whatever the tracker's client raises
            self._failures += 1
            self._left_alone_s = time.monotonic() + LEFT_ALONE_S
            self.missed = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not self._warned:
                self._warned = True
                logger.warning(
                    "MLflow: %s. The run goes on; events.jsonl and the report keep all, and `stillhouse report RUN "
                    "--push` sends it afterwards.",
                    self.missed,
                )


def _make_whole(path: Path) -> None:
    """Let MLflow make its database beside its place and only then put it there: one that was half made when its process
    was killed could never be opened again."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f"{path.name}.*{storage.PARTIAL}"):
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            left.unlink(missing_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{storage.PARTIAL}")
    try:
        store = SqlAlchemyStore(f"{SQLITE}{partial}", _artifacts(f"{SQLITE}{path}"))  # type: ignore[no-untyped-call]
        store.engine.dispose()
        getattr(SqlAlchemyStore, "_engine_map", {}).pop(f"{SQLITE}{partial}", None)  # it would keep it for ever
        try:
            os.link(partial, path)
        except FileExistsError:  # another run was quicker
            pass
        except OSError:  # a file system without links
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _artifacts(uri: str) -> str | None:
    """Beside a SQLite file, absolute; a server knows its own place."""
    return (Path(uri.removeprefix(SQLITE)).parent / "mlruns").as_uri() if uri.startswith(SQLITE) else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested keys as dotted ones, which MLflow can search and compare."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        elif key != "folder":
            found.append((f"{prefix}{key}", value))
    return found
