"""An exported student in MLflow's registry, with the alias `champion`.

The model holds the export's folder and a file that loads it by the export's own `load.py`; nothing of it is a pickle.
"""

from __future__ import annotations

import inspect
import json
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml

from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_export_model, mlflow_models, mlflow_runs, mlflow_uri
from orchestrator.observers.mlflow_runs import FOLDER, PARENT, RUN
from orchestrator.run_folder import model_folder
from orchestrator.run_folder.history import last_opened
from workers.errors import RunError
from workers.redact import redacted

CHAMPION = "champion"
ROLE = "export"
"""Role of the MLflow run of an export."""


def check(config: RunConfig) -> None:
    """Raise `RequestError` where the tracker would not take the run of an export. Writes nothing."""
    uri = config.tracking.uri
    mlflow_uri.reach(uri)
    file = mlflow_uri.sqlite_file(uri)
    if file is not None and not file.exists():
        return  # `register` creates it
    mlflow_uri.prepare()
    from mlflow import MlflowClient

    with mlflow_runs.opening(uri, config.tracking.experiment):
        mlflow_runs.existing(MlflowClient(uri), config.tracking.experiment, uri)


def register(
    config: RunConfig,
    export: Path,
    folder: str,
    *,
    name: str,
    figures: Mapping[str, float],
    classes: int,
    run: str,
) -> str:
    """Register the export in the local folder `export` as a new version of `name`, and give that version the alias.

    folder: of the run called `run`. figures: metrics of the export's own MLflow run, which is nested in that of the
    run, if the tracker has it. Returns the version. Raises: `RunError` where the tracker refuses;
    the version may be written without the alias then.
    """
    mlflow_uri.prepare()
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    uri, version = config.tracking.uri, ""
    try:
        client, experiment = mlflow_runs.connected(uri, config.tracking.experiment)
        opened = last_opened(folder)
        parent = None if opened is None else mlflow_runs.opened(client, opened)
        tags = {RUN: run, FOLDER: redacted(folder), **({} if parent is None else {PARENT: parent.info.run_id})}
        run_id = mlflow_runs.create(client, experiment, ROLE, ROLE, tags)
        status = "FAILED"
        try:
            now_ms = int(time.time() * 1000)
            client.log_batch(run_id, metrics=[Metric(key, value, now_ms, 0) for key, value in figures.items()])
            with tempfile.TemporaryDirectory(prefix="stillhouse-model-") as scratch:
                model = Path(scratch, "model")
                _save(model, export, classes)
                tags = {RUN: run, "stillhouse.export": "true"}
                version = mlflow_models.upload_version(
                    client, run_id, model, experiment=experiment, name=name, tags=tags
                )
            client.set_registered_model_alias(name, CHAMPION, version)
            status = "FINISHED"
        finally:
            with suppress(MlflowException, OSError):  # whether the export stays follows from the alias alone
                mlflow_runs.end(client, run_id, status)
        return version
    except (MlflowException, OSError) as error:
        left = (
            f"Version {version} was written; the alias `{CHAMPION}` may not be set to it"
            if version
            else f"The alias `{CHAMPION}` is unchanged"
        )
        raise RunError(
            f"--register: the tracker at '{redacted(uri)}' did not register '{name}' ({error}). {left}. Check the "
            "tracker and its credentials, then export again."
        ) from error


def _save(folder: Path, export: Path, classes: int) -> None:
    """Write the model in MLflow's format, without absolute paths of this machine."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    about = json.loads((export / "export.json").read_text(encoding="utf-8"))
    shape = (-1, -1, classes) if about["inputs"].get("elements_of") else (-1, classes)
    requirements = [line for line in (export / "requirements.txt").read_text().splitlines() if line]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that the signature is explicit and not inferred
        mlflow.pyfunc.save_model(
            folder,
            python_model=inspect.getfile(mlflow_export_model),
            artifacts={mlflow_export_model.EXPORT: str(export)},
            signature=ModelSignature(outputs=Schema([TensorSpec(np.dtype(np.float32), shape)])),
            pip_requirements=[f"mlflow=={mlflow.__version__}", *requirements],
        )
    place = folder / model_folder.MLMODEL
    written = model_folder.load(place)
    for artifact in written["flavors"]["python_function"]["artifacts"].values():
        artifact["uri"] = artifact["path"]
    place.write_text(yaml.safe_dump(written, sort_keys=False))
