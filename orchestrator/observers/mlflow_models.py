"""Models in MLflow: the student, loadable with `mlflow.pyfunc.load_model` and registered, its members beside it.

This module uses only MLflow's client, so that a program that calls `run` keeps its own active tracker. Members
are models without files: their weights stay in the run's folder, and their tags have the URI.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from orchestrator.cluster import environment
from orchestrator.run_folder import model_folder
from orchestrator.run_folder.model_folder import ModelRecord
from workers.redact import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

WEIGHTS_TAG, MARK_TAG, MODEL_TAG = "stillhouse.weights", "stillhouse.student", "stillhouse.model"
"""Tags of a registered version: sha256 of the student's weights, the digest of all its inputs, and its model's
identifier, which MLflow does not store."""
INPUTS_TAG = "stillhouse.inputs"
"""Tag with the student's input, such as `float32 [N, 8]`."""
TIMEOUT, UPLOAD_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", 600


def log_members(
    client: MlflowClient, experiment: str, runs: Mapping[str, str], weights: Mapping[str, str], student: str
) -> None:
    """Log each member as a model of its own run, and as an input of the run `student`.

    runs, weights: the MLflow run and the URI of the weights of each member, by name.
    """
    from mlflow.entities import LoggedModelInput
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    inputs = client.get_run(student).inputs
    if inputs is not None and inputs.model_inputs:  # sent before
        return
    known = []
    for member, uri in weights.items():
        if there := _models_of(client, runs[member]):
            known.append(LoggedModelInput(there[0]))
            continue
        tags = {MLFLOW_MODEL_IS_EXTERNAL: "true", "stillhouse.uri": redacted(uri)}
        model = client.create_logged_model(experiment, member, runs[member], tags, model_type="member")
        client.finalize_logged_model(model.model_id, "READY")
        _log_output(client, runs[member], model.model_id)
        known.append(LoggedModelInput(model.model_id))
    client.log_inputs(student, models=known)


def log_student(
    client: MlflowClient,
    run: str,
    place: str,
    record: ModelRecord,
    *,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
) -> str:
    """Log the student as a model of its run and register it as a version of `name`; returns its identifier.

    A student that is already registered is reused. place: the student's folder in the run's; `record` lists the model's
    files. They are copied to the tracker, and no code in them is executed.
    Raises: `RequestError` where the files are not those that a run wrote.
    """
    tags = {**tags, MARK_TAG: record.student, WEIGHTS_TAG: record.weights, INPUTS_TAG: record.inputs}
    model_id = _registered(client, name, record.student)
    if model_id is None:
        with tempfile.TemporaryDirectory(prefix="stillhouse-model-") as folder:
            model_folder.fetch(place, record, Path(folder))
            model_id = _upload(client, run, Path(folder), experiment=experiment, name=name, tags=tags)
    if model_id not in _models_of(client, run):
        _log_output(client, run, model_id)
    return model_id


def _upload(
    client: MlflowClient, run: str, folder: Path, *, experiment: str, name: str, tags: Mapping[str, str]
) -> str:
    """Upload the validated model in the local `folder` as a new model of `run` and a new version of `name`."""
    model = client.create_logged_model(experiment, "student", run, dict(tags), model_type="student")
    try:
        own = model_folder.load(folder / model_folder.MLMODEL) | {"run_id": run, "model_id": model.model_id}
        (folder / model_folder.MLMODEL).write_text(yaml.safe_dump(own, sort_keys=False))
        with _time_to_upload():
            client.log_model_artifacts(model.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    model_id = str(model.model_id)
    # Not `models:/ID`, which MLflow's database registry would resolve at the process's active tracker.
    client.create_model_version(name, model.artifact_location, run, {**tags, MODEL_TAG: model_id}, model_id=model_id)
    return model_id


def upload_version(
    client: MlflowClient, run: str, folder: Path, *, experiment: str, name: str, tags: Mapping[str, str]
) -> str:
    """Upload the model in the local `folder` as a new model of `run`, and as a new version of `name`; the version."""
    _make_registered(client, name)
    model_id = _upload(client, run, folder, experiment=experiment, name=name, tags=tags)
    _log_output(client, run, model_id)
    versions = client.search_model_versions(f"name = '{name}'")
    return str(next(found.version for found in versions if found.tags.get(MODEL_TAG) == model_id))


def _log_output(client: MlflowClient, run: str, model_id: str) -> None:
    """Log a model as made by a run."""
    from mlflow.entities import LoggedModelOutput

    client.log_outputs(run, [LoggedModelOutput(model_id, 0)])


def _models_of(client: MlflowClient, run: str) -> list[str]:
    """The models that a run made."""
    outputs = client.get_run(run).outputs
    return [] if outputs is None else [str(output.model_id) for output in outputs.model_outputs]


@contextmanager
def _time_to_upload() -> Iterator[None]:
    """Raise MLflow's timeout for the block, since a server may respond only after it has forwarded the weights."""
    with environment.restored(TIMEOUT):
        os.environ[TIMEOUT] = str(max(UPLOAD_S, int(os.environ.get(TIMEOUT) or 0)))
        yield


def _registered(client: MlflowClient, name: str, key: str) -> str | None:
    """The model of the same student, if it is registered; creates the registered model if it is missing."""
    from mlflow.exceptions import MlflowException

    _make_registered(client, name)
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(MARK_TAG) == key:
            try:
                return str(client.get_logged_model(found.tags[MODEL_TAG]).model_id)
            except MlflowException:  # it was deleted
                continue
    return None


def _make_registered(client: MlflowClient, name: str) -> None:
    """Create the registered model, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Students that Stillhouse distilled.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
