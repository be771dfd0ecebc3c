"""Validation of the student's MLflow model in a run's folder: its files and its MLmodel.

A pushed folder may come from an untrusted source. So a model is accepted only in the form that Stillhouse writes: known
file names with recorded digests, no links, an MLmodel without outside references, and no pickle that MLflow would load.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers import storage
from workers.artifacts import store
from workers.artifacts.kinds import STUDENT_MODEL
from workers.errors import RequestError
from workers.specs import models

FOLDER = "mlflow"
"""Folder of the model in the student's folder."""
RECORD = "stillhouse.json"
MLMODEL, SERVED, CODE = "MLmodel", "pyfunc.py", "artifacts/code"
WEIGHTS = tuple(f"artifacts/{name}" for name in models.WEIGHTS)
"""Weights of each kind of student; a model has one of these files."""
BEGINS = {".safetensors": (8, b"{"), ".skops": (0, b"PK\x03\x04")}
"""Offset and signature of files of weights, by their suffix; neither format is a pickle."""
EXAMPLE, SERVING = "input_example.json", "serving_input_example.json"
ENVIRONMENT = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
FILES = {MLMODEL, SERVED, *WEIGHTS, EXAMPLE, SERVING, "requirements.txt", *ENVIRONMENT.values()}
FOLDERS = ("code/workers", CODE)
PATTERN = "|".join([*map(re.escape, sorted({*FILES, RECORD})), *(rf"{folder}/.+" for folder in FOLDERS)])
"""Pattern of the paths that a run writes in `FOLDER`."""
LOADER = "mlflow.pyfunc.loaders.code_model"
"""MLflow's loader for a Python file that the model names; it loads no pickle."""
OF_THE_FLAVOR = {"config", "cloudpickle_version", "python_version"}
OF_THE_MODEL = {
    "flavors", "is_signature_from_type_hint", "mlflow_version", "model_id", "model_size_bytes", "model_uuid",
    "prompts", "run_id", "saved_input_example_info", "signature", "type_hint_from_example", "utc_time_created",
}  # fmt: skip
"""Optional keys with plain values."""
MOST_BYTES = 2**20
"""Largest MLmodel."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]


class ModelRecord(BaseModel):
    """The validated record of the model (`workers.artifacts`)."""

    model_config = ConfigDict(extra="forbid")

    key: Digest
    """Digest of all inputs of the files."""
    student: Digest
    """Digest of all inputs of the student's outputs."""
    weights: Digest
    inputs: str
    """The student's input, such as `float32 [N, 8]`."""
    classes: int
    files: dict[str, Digest]
    """sha256 by path in the folder."""


def read(place: str) -> ModelRecord | None:
    """The record of the student's model in the folder `place` of a run's student; None without a model.

    Raises: `RequestError` where it is not a record that a run wrote.
    """
    uri = storage.join(place, FOLDER, RECORD)
    content = storage.read_if_there(uri)
    if content is None:
        return None
    try:
        record = _parsed(uri, json.loads(content))
    except ValidationError as error:
        raise _refused(uri, str(error.errors()[0]["msg"])) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _refused(uri, "it is no record") from None
    for path in record.files:
        if not _is_known(path):
            raise _refused(uri, f"it lists '{path}', which no student's model has")
    return record


def _parsed(uri: str, written: Any) -> ModelRecord:
    store.check_format(uri, written, STUDENT_MODEL.version)
    record = STUDENT_MODEL.record(written)
    if record is None:
        raise _refused(uri, f"its format is {written['format']!r}")
    return ModelRecord.model_validate({"key": record.key, "files": record.files, **record.facts})


def fetch(place: str, record: ModelRecord, target: Path) -> None:
    """Validate the recorded files and copy them to the empty folder `target`.

    Raises: `RequestError` with the name of an invalid file.
    """
    folder = storage.join(place, FOLDER)
    for path, digest in record.files.items():
        uri = storage.join(folder, path)
        if storage.is_local(uri):
            _check_no_link(Path(storage.filesystem(folder)[1]), path, uri)
        try:
            content = storage.read_raw(uri)
        except FileNotFoundError:
            raise _refused(uri, "it is missing") from None
        if storage.sha256(content) != digest:
            raise _refused(uri, "its sha256 is not the one on record")
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    for needed in (MLMODEL, SERVED):
        if needed not in record.files:
            raise _refused(folder, f"it has no {needed}")
    weights = [path for path in WEIGHTS if path in record.files]
    if len(weights) != 1:
        raise _refused(folder, f"it has {len(weights)} of {', '.join(WEIGHTS)}")
    ending = posixpath.splitext(weights[0])[1]
    at, begins = BEGINS.get(ending, (0, b""))
    if (target / weights[0]).read_bytes()[at : at + len(begins)] != begins:
        raise _refused(storage.join(folder, weights[0]), f"it is no {ending[1:]} file")
    check(load(target / MLMODEL), weights[0], has_code=any(path.startswith(CODE + "/") for path in record.files))


def remove(place: str) -> None:
    """Remove the model in the folder `place` of a run's student, but no file that a run did not write."""
    folder = storage.join(place, FOLDER)
    storage.remove_files(folder, [path for path in storage.files_below(folder) if re.fullmatch(PATTERN, path)])


def load(path: Path) -> dict[str, Any]:
    """An MLmodel as plain values."""
    text = path.read_bytes()
    found = None
    if len(text) <= MOST_BYTES:
        with contextlib.suppress(yaml.YAMLError, RecursionError, ValueError):
            found = yaml.safe_load(text)
    if not isinstance(found, dict):
        raise _refused(str(path), "it is no MLmodel in YAML")
    return found


def check(model: dict[str, Any], weights: str, *, has_code: bool) -> None:
    """Raise `RequestError` unless an MLmodel refers only to files of its own folder, and loads no pickle."""
    flavor = model.get("flavors", {}).get("python_function") if isinstance(model.get("flavors"), dict) else None
    if not isinstance(flavor, dict) or set(model["flavors"]) != {"python_function"}:
        raise _refused(MLMODEL, "expected the flavor python_function alone")
    for key, found in model.items():
        if key not in OF_THE_MODEL:
            raise _refused(MLMODEL, f"it has a key '{key}' that no student's model has")
        expected = {"artifact_path": EXAMPLE, "serving_input_path": SERVING, "type": "ndarray"}
        if key == "saved_input_example_info" and found != expected:
            raise _refused(MLMODEL, f"{key} is {found!r}; expected {expected!r}")
    expected_flavor = flavor_of(weights, has_code)
    for key in flavor.keys() | expected_flavor.keys():
        if key not in OF_THE_FLAVOR and flavor.get(key) != expected_flavor.get(key):
            raise _refused(MLMODEL, f"{key} is {flavor.get(key)!r}; expected {expected_flavor.get(key)!r}")


def flavor_of(weights: str, has_code: bool) -> dict[str, Any]:
    """The flavor of the MLmodel: paths in its own folder, and Stillhouse's loader."""
    paths = {"weights": weights, **({"code": CODE} if has_code else {})}
    return {
        "artifacts": {name: {"path": path, "uri": path} for name, path in paths.items()},
        "code": "code",
        "env": ENVIRONMENT,
        "loader_module": LOADER,
        "model_code_path": SERVED,
        "streamable": False,
    }


def _is_known(path: str) -> bool:
    """Whether a student's model may have a file of this path; it must stay inside its folder."""
    plain = posixpath.normpath(path) == path and not path.startswith(("/", "..")) and not re.search(r"[\\\x00]", path)
    return plain and (path in FILES or path.startswith(tuple(f"{folder}/" for folder in FOLDERS)))


def _check_no_link(folder: Path, path: str, uri: str) -> None:
    parts = [
        folder.parent,
        folder,
        *(folder.joinpath(*Path(path).parts[: n + 1]) for n in range(len(Path(path).parts))),
    ]
    if any(part.is_symlink() for part in parts):
        raise _refused(uri, "it is a link, or lies in a folder that is one")


def _refused(what: str, why: str) -> RequestError:
    return RequestError(
        f"the student's model for MLflow: '{what}' is not what a run wrote: {why}. Nothing was sent. The same "
        "`stillhouse run` writes it again; `--set tracking.registered_model=false` sends the rest without it."
    )
