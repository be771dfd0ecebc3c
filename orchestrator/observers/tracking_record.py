"""`tracking.json` in a run's folder: the information for MLflow that requires the run's code or data.

A run writes the file as it begins, and sends its content. `report --push` sends the same content later, even from a
moved folder, without importing a module or reading a data set.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.cluster import environment
from orchestrator.config import loading
from orchestrator.config.run_config import RunConfig
from orchestrator.config.schema import NAME
from orchestrator.observers import mlflow_descriptions, mlflow_uri
from orchestrator.run_folder.paths import RunFolder, damaged
from workers import __version__, storage
from workers.artifacts.key import Key
from workers.data.examples import Columns, Examples, shape_of
from workers.redact import redacted
from workers.specs.data import IdxFiles
from workers.user_code import factories

if TYPE_CHECKING:
    from workers.data.dataset import Dataset

CONTEXTS = {"train": "training", "validation": "validation", "test": "testing", "unlabeled": "transfer"}
"""MLflow's name for the use of each split."""
DIGEST = 36
"""Most characters of a data set's digest in MLflow."""
CODE = "stillhouse.code."
"""Prefix of the tags with the digests of the user's code, by section of the configuration."""
COMMIT_TAG = "mlflow.source.git.commit"
WITH_CODE = ("data", "ensemble", "distillation", "student", "evaluation")
"""The sections whose code results follow from; `report` has code that draws figures."""


class SplitRecord(BaseModel):
    """One split in the form of MLflow's data sets: source and profile are JSON."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern="^(train|validation|test|unlabeled)$")]
    digest: Annotated[str, Field(pattern=r"^\w*$", max_length=DIGEST)]
    source_type: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    source: str
    profile: str


class TrackingRecord(BaseModel):
    """The tracker's information on code and data."""

    model_config = ConfigDict(extra="forbid")

    request: Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]
    """Digest of all inputs of the run's results and parameters, and of its folder."""
    tags: dict[Annotated[str, Field(pattern=r"^(stillhouse\.(version|code\.\w+)|mlflow\.(source\.[\w.]+|user))$")], str]
    datasets: list[SplitRecord]
    part_of: Annotated[str, Field(pattern=NAME)] | None = None
    """The name of the run that this one belongs to, such as the run whose repetition it is; None: a run of its own."""


def of(config: RunConfig, dataset: Dataset, part_of: str | None = None) -> TrackingRecord:
    """The record of a run that is about to begin. part_of: the name of the run that it belongs to."""
    tags = _tags(config)
    follows = {key: value for key, value in tags.items() if key.startswith(CODE) or key == "stillhouse.version"}
    request = Key(
        "request",
        1,
        folder=config.folder,
        params=mlflow_descriptions.params(config),
        code=follows,
        data=dataset.digests,
    )
    return TrackingRecord(request=request.digest, tags=tags, datasets=_splits(config, dataset), part_of=part_of)


def write(record: TrackingRecord, folder: str) -> None:
    storage.write_text(RunFolder(folder).tracking, record.model_dump_json(indent=1) + "\n")


def read(folder: str) -> TrackingRecord | None:
    """The record in a run's folder; None where an earlier version of Stillhouse wrote the folder.

    Raises: `RequestError` where the file is not a valid record.
    """
    uri = RunFolder(folder).tracking
    if not storage.exists(uri):
        return None
    try:
        return TrackingRecord.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise damaged(uri, f"{where}: {error.errors()[0]['msg']}") from None


def _tags(config: RunConfig) -> dict[str, str]:
    """Tags with the digests of the user's code, and the name of the user."""
    mlflow_uri.prepare()
    from mlflow.utils.git_utils import get_git_commit

    folder = getattr(config.student.model, "folder", "")
    values = config.model_dump()
    found = {section: [*loading.own_code(values[section])] for section in WITH_CODE}
    tags = {
        "stillhouse.version": __version__,
        **{f"{CODE}{section}": _digest(code) for section, code in found.items() if code},
        "mlflow.source.name": "stillhouse run",
        "mlflow.source.type": "JOB" if environment.IN_A_JOB in os.environ else "LOCAL",
        "mlflow.user": _user(),
    }
    commit = os.environ.get(environment.COMMIT) or get_git_commit(folder)
    return tags | ({COMMIT_TAG: commit} if commit else {})


def _digest(code: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The digest of one piece of code, or of several: each as `module:name`, with the section that has its `folder`."""
    found = [factories.digest(name, section.get("folder", "")) for name, section in code]
    return found[0] if len(found) == 1 else Key("code", 1, models=found).digest


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _splits(config: RunConfig, dataset: Dataset) -> list[SplitRecord]:
    """The splits of the data: source, digest over every example, sizes."""
    found = []
    for name in CONTEXTS:
        split = getattr(dataset, name)
        if split is None:
            continue
        x = split if name == "unlabeled" else split.x
        kind, source = _source(config, name)
        profile = {"examples": len(x), "shape": _shape(x), "classes": dataset.classes}
        found.append(
            SplitRecord(
                name=name,
                digest=dataset.digests[name][:DIGEST],
                source_type=kind,
                source=json.dumps(source),
                profile=json.dumps(profile),
            )
        )
    return found


def _shape(x: Examples) -> list[int] | dict[str, str]:
    """The shape of an example: sizes of a single dense column, else type and shape of each column as text."""
    if not isinstance(x, Columns):
        return list(x.shape[1:])
    return {name: f"{column.dtype} {shape_of(column)}" for name, column in x.columns.items()}


def _source(config: RunConfig, split: str) -> tuple[str, dict[str, Any]]:
    """The source of a split, in MLflow's terms."""
    data = config.data
    if data.code is not None:
        return "code", {"tags": {"factory": data.code, "kwargs": mlflow_descriptions.flat(data.kwargs)}}
    file = getattr(data, split, None) or data.train or ""
    uri = storage.absolute(file.images if isinstance(file, IdxFiles) else file, data.root)
    return "local" if storage.is_local(uri) else uri.partition("://")[0], {"uri": redacted(uri)}
