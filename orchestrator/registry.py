"""The student as a model in MLflow: loadable with `mlflow.pyfunc.load_model`, registered, its members beside it.

All by MLflow's client alone, so that whoever calls `run` from Python keeps the tracker that is active there. Members
are models without files of their own: their weights stay in the run's folder, where their tags point.
"""

from __future__ import annotations

import inspect
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from workers import factories, storage, teacher
from workers.secrets import hidden
from workers.soft_targets import fingerprint

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from workers.inputs import Inputs
    from workers.specs import ModelSpec
    from workers.teacher import Member

NEEDED = ("mlflow", "torch", "numpy", "safetensors", "fsspec", "pydantic")
"""Distributions without which a student cannot answer, beside its factory's own."""
WEIGHTS_TAG, MARK_TAG, MODEL_TAG = "stillhouse.weights", "stillhouse.student", "stillhouse.model"
"""Of a registered version: sha256 of the student's weights; what its answers follow from; and the model that it is,
which MLflow does not say."""
TIMEOUT, UPLOAD_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", 600


def log_members(
    client: MlflowClient, experiment: str, runs: Mapping[str, str], members: Sequence[Member], student: str
) -> None:
    """Each member as a model of its own run, which the run `student` learned from."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    inputs = client.get_run(student).inputs
    if inputs is not None and inputs.model_inputs:  # sent before
        return
    known = []
    for member in members:
        if there := _models_of(client, runs[member.name]):
            known.append(LoggedModelInput(there[0]))
            continue
        tags = {MLFLOW_MODEL_IS_EXTERNAL: "true", "stillhouse.uri": hidden(member.weights)}
        model = client.create_logged_model(experiment, member.name, runs[member.name], tags, model_type="member")
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(runs[member.name], [LoggedModelOutput(model.model_id, 0)])
        known.append(LoggedModelInput(model.model_id))
    client.log_inputs(student, models=known)


def log_student(
    client: MlflowClient,
    experiment: str,
    run: str,
    student: Member,
    examples: Inputs,
    classes: int,
    name: str,
    tags: Mapping[str, str],
) -> str:
    """The student as a model of its run, and a version of the registered model `name`: its identifier.

    One that is registered already is that model. examples: what it may be asked, [n, ...].
    """
    from mlflow.entities import LoggedModelOutput

    follows_from = teacher.follows_from(student)
    mark = fingerprint(**follows_from)
    tags = {**tags, MARK_TAG: mark, WEIGHTS_TAG: follows_from["weights"]}
    model_id = _registered(client, name, mark)
    if model_id is None:
        model = client.create_logged_model(experiment, "student", run, dict(tags), model_type="student")
        try:
            with tempfile.TemporaryDirectory(prefix="stillhouse-model-") as folder, _time_to_upload():
                _save(Path(folder, "model"), student, examples, classes, run, model.model_id)
                client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
        except BaseException:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
        client.finalize_logged_model(model.model_id, "READY")
        model_id = str(model.model_id)
        # Not `models:/ID`, which MLflow's registry in a database looks up at the tracker that is active here.
        tags[MODEL_TAG] = model_id
        client.create_model_version(name, model.artifact_location, run, tags, model_id=model_id)
    if model_id not in _models_of(client, run):
        client.log_outputs(run, [LoggedModelOutput(model_id, 0)])
    return model_id


def _models_of(client: MlflowClient, run: str) -> list[str]:
    """The models that a run made."""
    outputs = client.get_run(run).outputs
    return [] if outputs is None else [str(output.model_id) for output in outputs.model_outputs]


@contextmanager
def _time_to_upload() -> Iterator[None]:
    """A server may answer only once it has passed the weights on."""
    before = os.environ.get(TIMEOUT)
    os.environ[TIMEOUT] = str(max(UPLOAD_S, int(before or 0)))
    try:
        yield
    finally:
        if before is None:
            del os.environ[TIMEOUT]
        else:
            os.environ[TIMEOUT] = before


def _registered(client: MlflowClient, name: str, mark: str) -> str | None:
    """The same student, if it is registered; sees to it that there is something to register it under."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Students that Stillhouse distilled.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(MARK_TAG) == mark:
            try:
                return str(client.get_logged_model(found.tags[MODEL_TAG]).model_id)
            except MlflowException:  # it was deleted
                continue
    return None


def _save(folder: Path, student: Member, examples: Inputs, classes: int, run: str, model_id: str) -> None:
    """MLflow's own format of a model, in `folder`."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    import workers
    from workers import served

    example = np.asarray(examples)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )
    beside = folder.with_name("parts")
    artifacts = {served.WEIGHTS: str(beside / "model.safetensors")}
    beside.mkdir()
    Path(artifacts[served.WEIGHTS]).write_bytes(storage.read_bytes(student.weights))
    files = factories.files(student.model.factory, student.model.folder)
    for file, content in files.items():
        place = beside / "code" / file.relative_to(Path(student.model.folder))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    if files:
        artifacts[served.CODE] = str(beside / "code")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the signature is given and not inferred, and the like
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=Model(run_id=run, model_id=model_id),
            python_model=inspect.getfile(served),
            artifacts=artifacts,
            model_config={served.MODEL: student.model.model_dump(mode="json", exclude={"folder", "depends_on"})},
            code_paths=[os.path.dirname(inspect.getfile(workers))],
            signature=signature,
            input_example=example,
            pip_requirements=_requirements(student.model),
        )


def _requirements(model: ModelSpec) -> list[str]:
    needed = {name: version(name) for name in NEEDED} | factories.needs(model.factory, model.folder)
    return [f"{name}=={number.partition('+')[0]}" for name, number in needed.items()]
