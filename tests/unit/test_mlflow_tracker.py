"""Which MLflow runs a `stillhouse run` writes to: begun once, continued where it was interrupted, never mixed up."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_models, mlflow_runs, mlflow_tracker, mlflow_uri
from orchestrator.observers.mlflow_tracker import Tracker
from orchestrator.observers.tracking_record import SplitRecord, TrackingRecord
from tests.makers import settings
from workers.errors import RequestError
from workers.training.loop import Epoch

DATA = SplitRecord(name="train", digest="d1", source_type="local", source='{"uri": "x"}', profile="{}")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow, which takes seconds to make."""
    place = tmp_path_factory.mktemp("tracker") / "mlflow.db"
    mlflow_uri.make_whole(place)
    return place


@pytest.fixture
def config(empty: Path, tmp_path: Path) -> RunConfig:
    shutil.copy(empty, tmp_path / "mlflow.db")
    return RunConfig.from_mapping(settings(tmp_path), str(tmp_path))


def record(request: str = "a") -> TrackingRecord:
    return TrackingRecord(request=request * 16, tags={"stillhouse.version": request}, datasets=[DATA])


def epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=0.5,
        validation_accuracy=0.8,
        validation_nll=0.6,
        seconds=1.0,
        examples=10,
        waited_s=0.0,
        train_accuracy=0.9 if number else None,  # the first epoch is of an earlier version
    )


def begun(config: RunConfig, status: str, epochs: int = 1, **changes: Any) -> Tracker:
    """A run that trained its student for some epochs and then ended so; `RUNNING`: its process was killed."""
    tracker = Tracker(config, changes.pop("record", record()), **changes)
    tracker.system("student", "student")
    tracker.epochs("student", [epoch(k) for k in range(epochs)])
    if status == "FINISHED":
        tracker.trained("student")
    assert tracker._monitor is not None
    tracker._monitor.finish()
    if status != "RUNNING":
        tracker.close(status)
    assert tracker.missed is None
    return tracker


def all_runs(config: RunConfig) -> list[Run]:
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "FAILED"])
def test_the_same_command_continues_the_same_run(config: RunConfig, status: str) -> None:
    first = begun(config, status)
    again = begun(config, "FINISHED", epochs=2, earlier=first.run_id)
    assert again.run_id == first.run_id
    runs = all_runs(config)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 2}
    client = MlflowClient(config.tracking.uri)
    student = next(run for run in runs if run.info.run_id != first.run_id)
    history = client.get_metric_history(student.info.run_id, "train_loss")
    assert [metric.step for metric in history] == [1, 2], "the first epoch is there once"
    shown = client.get_metric_history(first.run_id, "student_validation_accuracy")
    assert [metric.step for metric in shown] == [1, 2]
    for run_id, key in ((student.info.run_id, "train_accuracy"), (first.run_id, "student_train_accuracy")):
        assert [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)] == [(2, 0.9)]
    parent = client.get_run(first.run_id)
    assert len(parent.inputs.dataset_inputs) == 1 and parent.info.end_time >= student.info.end_time
    assert first._config.name == parent.info.run_name


def test_the_machine_is_watched_again(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    steps = []
    run_id = None
    for _ in range(2):
        tracker = Tracker(config, record(), earlier=run_id)
        threading.Event().wait(0.6)
        tracker.close("FAILED")
        assert run_id in (None, tracker.run_id)
        run_id = tracker.run_id
        history = tracker.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
        steps.append([metric.step for metric in history])
    assert steps[0] and steps[1][: len(steps[0])] == steps[0] and len(steps[1]) == len(set(steps[1])) > len(steps[0])


@pytest.mark.parametrize("why", ["changed", "fresh", "finished", "deleted", "no record", "another experiment"])
def test_any_other_request_is_another_run(config: RunConfig, why: str) -> None:
    first = begun(config, "FINISHED" if why == "finished" else "RUNNING")
    client, changes = MlflowClient(config.tracking.uri), {}
    if why == "deleted":
        client.delete_run(first.run_id)
    elif why == "another experiment":
        tracking = config.tracking.model_copy(update={"experiment": "elsewhere"})
        config = config.model_copy(update={"tracking": tracking})
    elif why == "changed":
        changes = {"record": record("b")}
    elif why == "no record":
        changes = {"record": None}
    again = begun(config, "FINISHED", earlier=first.run_id, fresh=why == "fresh", **changes)
    assert again.run_id != first.run_id
    status = client.get_run(first.run_id).info.status
    assert status == {"finished": "FINISHED", "deleted": "RUNNING"}.get(why, "KILLED")
    history = client.get_metric_history(first.run_id, "student_validation_accuracy")
    assert len(history) == 1, "what it has is left alone"


def test_the_original_of_a_copied_folder_is_left_alone(config: RunConfig) -> None:
    first = begun(config, "RUNNING")
    copied = config.model_copy(update={"name": "copy"})
    again = begun(copied, "FINISHED", record=record("b"), earlier=first.run_id)
    client = MlflowClient(config.tracking.uri)
    assert again.run_id != first.run_id and client.get_run(first.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(("part_of", "role"), [(None, "run"), ("small", "part")])
def test_a_run_that_belongs_to_another_has_a_role_of_its_own(config: RunConfig, part_of: str | None, role: str) -> None:
    tracker = begun(config, "FINISHED", record=record().model_copy(update={"part_of": part_of}))
    tags = MlflowClient(config.tracking.uri).get_run(tracker.run_id).data.tags
    assert (tags["stillhouse.role"], tags.get("stillhouse.part_of")) == (role, part_of)


def test_an_experiment_that_another_process_makes_at_the_same_moment(config: RunConfig) -> None:
    """Three clients at a time, eight times; a registered model likewise."""
    failed: list[Exception] = []
    found: list[tuple[str, str]] = []
    clients = [MlflowClient(config.tracking.uri) for _ in range(3)]
    barrier = threading.Barrier(3)

    def begin(client: MlflowClient) -> None:
        for number in range(8):
            barrier.wait()
            try:
                found.append((f"new-{number}", mlflow_runs.experiment(client, f"new-{number}", config.tracking.uri)))
                assert mlflow_models._registered(client, f"student-{number}", "mark") is None
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=begin, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(found) == 24 and len(set(found)) == 8
    assert len(clients[0].search_registered_models()) == 8


def test_one_that_is_made_between_the_look_and_the_making(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(config.tracking.uri)
    expected = client.create_experiment("theirs")
    look, looks = client.get_experiment_by_name, []
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: look(name) if looks else looks.append(name))
    assert mlflow_runs.experiment(client, "theirs", config.tracking.uri) == expected
    assert looks == ["theirs"]


def test_figures_and_tables_are_there_once_however_often_they_are_sent(config: RunConfig) -> None:
    tracker = begun(config, "RUNNING")
    for latency in (1.0, 1.0, 2.0):
        tracker._figures(tracker.run_id, {"test_accuracy": 0.9, "latency_ms_p50": latency})
        columns = {"system": ["student"], "accuracy": [0.9]}
        mlflow_runs.log_table(tracker.client, tracker.run_id, columns, "comparison.json")
    client = tracker.client
    assert len(client.get_metric_history(tracker.run_id, "test_accuracy")) == 1
    assert [m.value for m in client.get_metric_history(tracker.run_id, "latency_ms_p50")] == [1.0, 2.0]
    table = json.loads(Path(client.download_artifacts(tracker.run_id, "comparison.json")).read_text())
    assert table == {"columns": ["system", "accuracy"], "data": [["student", 0.9]]}
    tracker.close("FINISHED")


def test_a_table_has_no_infinite_numbers() -> None:
    """MLflow's page reads it as JSON, which has none."""
    assert [mlflow_tracker._short(figure) for figure in (math.inf, math.nan, None, 0.1234567)] == [None] * 3 + [0.12346]


def test_an_identifier_from_a_file_is_no_query(config: RunConfig) -> None:
    tracker = begun(config, "FINISHED")
    assert mlflow_runs.find(tracker.client, tracker.experiment_id, "x' or attributes.status = 'FINISHED") is None
    assert mlflow_runs.opened(tracker.client, "no such run") is None


def test_an_experiment_that_was_deleted_is_named(config: RunConfig) -> None:
    client, uri = MlflowClient(config.tracking.uri), config.tracking.uri
    number = mlflow_runs.experiment(client, "gone", uri)
    client.delete_experiment(number)
    with pytest.raises(RequestError, match=rf"tracking.experiment: 'gone' was deleted .*--experiment-id {number}`"):
        mlflow_runs.experiment(client, "gone", uri)
    client.restore_experiment(number)
    assert mlflow_runs.experiment(client, "gone", uri) == number
