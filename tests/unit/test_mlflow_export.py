"""An export in MLflow's registry: what is refused before anything is measured, and what the alias decides."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from orchestrator.observers import mlflow_export, mlflow_models
from workers.errors import RequestError, RunError


class Client:
    """A client of a tracker whose runs cannot be read again."""

    stage = "active"
    sent: ClassVar[list[dict[str, float]]] = []
    """The metrics of each request."""

    def __init__(self, uri: str) -> None: ...
    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(lifecycle_stage=self.stage, experiment_id="7")

    def create_run(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def get_run(self, run: str) -> Any:
        raise MlflowException("the connection is lost")

    def log_batch(self, run: str, metrics: Any) -> None:
        self.sent.append({each.key: each.value for each in metrics})

    def set_registered_model_alias(self, *_: Any) -> None: ...


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    monkeypatch.setattr(Client, "sent", [])
    monkeypatch.setattr(mlflow_export, "_save", lambda *_: None)
    monkeypatch.setattr(mlflow_models, "upload_version", lambda *_, **__: "3")
    sqlite3.connect(tmp_path / "mlflow.db").execute("create table runs (id)").connection.close()
    return SimpleNamespace(tracking=SimpleNamespace(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="digits"))


def register(config: Any, folder: Path) -> str:
    named: Any = {"name": "digits-student", "figures": {"share": 1.0, "nll": 0.5}, "classes": 2, "run": "digits"}
    return mlflow_export.register(config, folder, str(folder), **named)


def test_a_deleted_experiment_is_found_first(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow_export.check(config)
    monkeypatch.setattr(Client, "stage", "deleted")
    with pytest.raises(RequestError, match="'digits' was deleted in the tracker"):
        mlflow_export.check(config)


def test_an_export_whose_alias_is_set_stays(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert register(config, tmp_path) == "3" and Client.sent == [{"share": 1.0, "nll": 0.5}]

    def refuses(*_: Any, **__: Any) -> None:
        raise MlflowException("no such alias")

    monkeypatch.setattr(Client, "set_registered_model_alias", refuses)
    with pytest.raises(
        RunError, match=r"\(no such alias\)\. Version 3 was written; the alias `champion` may not be set"
    ):
        register(config, tmp_path)
    monkeypatch.setattr(mlflow_models, "upload_version", refuses)
    with pytest.raises(RunError, match=r"\(no such alias\)\. The alias `champion` is unchanged"):
        register(config, tmp_path)
