"""The MLflow runs of one `stillhouse run`: created once, found again by a run that resumes them, ended once.

This module uses only MLflow's client, and is independent of the logged content. Several processes may start at the
same time, so it uses an experiment that another process has just created.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.observers import mlflow_uri
from workers.errors import RequestError
from workers.redact import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ROLE = "stillhouse.role"
RUN = "stillhouse.run"
PART_OF = "stillhouse.part_of"
"""Tag of a run that belongs to another run of its command, such as a repetition: the name of that run."""
OPENED_AS = "stillhouse.opened_as"
"""Tag of a run that `report --push` sent to another tracker: its identifier at the first tracker."""
REQUEST = "stillhouse.request"
"""Tag with the digest of the run's request; only the same request in the same folder resumes the run."""
FOLDER = "stillhouse.folder"
"""The run's folder, as it was when the run began."""
NAME, PARENT = "mlflow.runName", "mlflow.parentRunId"
EXISTS = "RESOURCE_ALREADY_EXISTS"


@contextmanager
def opening(uri: str, experiment: str) -> Iterator[None]:
    """A block that opens runs; what a tracker or its client raises becomes a `RequestError` with its address."""
    mlflow_uri.prepare()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, ValueError) as error:
        raise RequestError(
            f"tracking: the tracker at '{redacted(uri)}' refused experiment '{experiment}' ({error}). Expected a name "
            "that it accepts and write access: set `tracking.experiment`, or give MLflow's credentials."
        ) from error


def connected(uri: str, name: str) -> tuple[MlflowClient, str]:
    """A client of the tracker at `uri`, and the identifier of the experiment; creates what is missing, a database too.

    Raises: as `existing`, and OSError or ValueError where the client refuses.
    """
    from mlflow import MlflowClient

    file = mlflow_uri.sqlite_file(uri)
    if file is not None:
        mlflow_uri.make_whole(file)
    client = MlflowClient(uri)
    return client, experiment(client, name, uri)


def log_table(client: MlflowClient, run_id: str, columns: Mapping[str, Sequence[object]], file: str) -> None:
    """Log a table; MLflow would append to an existing one, so that one is overwritten."""
    if all(item.path != file for item in client.list_artifacts(run_id)):
        client.log_table(run_id, {name: list(values) for name, values in columns.items()}, file)
        return
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    client.log_text(run_id, json.dumps({"columns": list(columns), "data": rows}), file)


def existing(client: MlflowClient, name: str, uri: str) -> str | None:
    """The identifier of the experiment of that name; None where it is missing.

    uri: of the tracker. Raises: MlflowException where the tracker refuses; `RequestError` where the experiment was
    deleted, since MLflow keeps its name.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage != "active":
        raise RequestError(
            f"tracking.experiment: '{name}' was deleted in the tracker at '{redacted(uri)}', which keeps its name. "
            f"Restore it by `mlflow experiments restore --experiment-id {found.experiment_id}`, remove it for good by "
            "`mlflow gc`, or set another `tracking.experiment`."
        )
    return None if found is None else str(found.experiment_id)


def experiment(client: MlflowClient, name: str, uri: str) -> str:
    """As `existing`; creates a missing experiment."""
    from mlflow.exceptions import MlflowException

    known = existing(client, name, uri)
    if known is not None:
        return known
    try:
        return str(client.create_experiment(name, artifact_location=mlflow_uri.artifacts(uri)))
    except MlflowException as error:
        known = existing(client, name, uri) if error.error_code == EXISTS else None  # another process created it
        if known is None:
            raise
        return known


def create(client: MlflowClient, experiment_id: str, name: str, role: str, tags: Mapping[str, str]) -> str:
    """A new run, in state RUNNING; its identifier."""
    made = client.create_run(experiment_id, tags={ROLE: role, NAME: name, **tags}, run_name=name)
    return str(made.info.run_id)


def find(client: MlflowClient, experiment_id: str, known: str) -> Run | None:
    """The run that this or another tracker opened as `known`; None where it is missing or deleted."""
    if not re.fullmatch(r"[\w-]+", known):  # it becomes part of a query
        return None
    for query in (f"attributes.run_id = '{known}'", f"tags.`{OPENED_AS}` = '{known}'"):
        for run in client.search_runs([experiment_id], query):
            return run
    return None


def opened(client: MlflowClient, run_id: str) -> Run | None:
    """The run of that identifier, in any experiment; None where it is missing or deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such run, no identifier
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def nested(client: MlflowClient, experiment_id: str, parent: str) -> dict[str, str]:
    """The runs nested in `parent`: their identifiers by name."""
    return {run.data.tags[NAME]: run.info.run_id for run in _nested(client, experiment_id, parent)}


def reopen(client: MlflowClient, run_id: str) -> None:
    """Set a failed or killed run to RUNNING again."""
    if client.get_run(run_id).info.status not in ("RUNNING", "FINISHED"):
        client.update_run(run_id, status="RUNNING")


def end(client: MlflowClient, run_id: str, status: str) -> None:
    """Set the status of a run, unless it has ended before."""
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, status)


def abandon(client: MlflowClient, parent: Run) -> None:
    """Set a run and its nested runs to KILLED where they are still RUNNING, since their process was killed."""
    inner = _nested(client, parent.info.experiment_id, parent.info.run_id)
    for run_id in (parent.info.run_id, *(run.info.run_id for run in inner)):
        end(client, run_id, "KILLED")


def _nested(client: MlflowClient, experiment_id: str, parent: str) -> Iterator[Run]:
    query, token = f"tags.`{PARENT}` = '{parent}'", None
    while True:
        page = client.search_runs([experiment_id], query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
