"""Exports the trained student as an MLflow model in the run's folder, and validates it in an isolated process.

A factory may read files and import modules that only its own machine has. So before the model is committed, a separate
process loads it in an empty folder, and its predictions must match the run's student. `mlflow_models` only copies
files.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from orchestrator.export import check_logged_model
from orchestrator.run_folder import model_folder
from workers import pyfunc_inputs, storage
from workers.artifacts import store
from workers.artifacts.kinds import STUDENT_MODEL
from workers.data.arrays import as_tensor
from workers.inference import teacher
from workers.models import provenance as model_provenance
from workers.redact import has_secrets, redacted
from workers.specs.base import FactorySpec
from workers.user_code import factories

if TYPE_CHECKING:
    from workers.inference.teacher import Member
    from workers.specs.models import AnyModel

logger = logging.getLogger(__name__)

NEEDED = ("mlflow", "torch", "numpy", "safetensors", "fsspec", "pydantic")
"""Distributions that every student requires, besides those of its factory."""
LOAD_TIMEOUT_S = 600.0
TOLERANCE = 1e-4
"""Largest accepted difference between the probabilities of two processes."""
KEPT_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|TEMP|TMP|SYSTEMROOT|(LD|DYLD|OMP|MKL|CUDA|NVIDIA|HF|HUGGINGFACE"
    r"|TORCH|TRANSFORMERS|XDG|SSL|CURL|REQUESTS)_\w+|\w+_(?i:proxy)"
)
"""Environment variables that the validating process keeps: those of machines rather than of a run."""


class Unusable(Exception):
    """The student cannot be loaded outside of its run; the message has the reason."""


def write(
    student: Member, examples: NDArray[Any], classes: int, place: str, how: Mapping[str, Any] | None = None
) -> str | None:
    """Write the student's model below `place`, its folder in the run; an existing model with the same key is kept.

    examples: valid inputs [n, ...] from the run's data, which are stored with the model. how: optional arguments of
    `pyfunc_inputs.examples`, as plain JSON values.

    Returns the reason for a missing model; None on success.
    """
    folder = storage.join(place, model_folder.FOLDER)
    try:
        if has_secrets(getattr(student.model, "kwargs", {})):
            raise Unusable("student.model.kwargs has a secret in it")
        of_student = teacher.key_of(student)
        key = STUDENT_MODEL.key(
            student=of_student, package=_package_digest(), mlflow=version("mlflow"), classes=classes,
            dtype=str(examples.dtype), examples=hashlib.sha256(examples.tobytes()).hexdigest(), shape=examples.shape,
            **(how or {}),
        )  # fmt: skip
        if is_there(place, key.digest):
            return None
        model_folder.remove(place)
        with tempfile.TemporaryDirectory(prefix="stillhouse-model-") as scratch:
            made = Path(scratch, "model")
            hidden = [_code_folder(student.model), *map(str, model_provenance.files_outside(student.model))]
            with _process(hidden, Path(scratch)) as process:
                _save(made, student, examples, {**(how or {}), "classes": classes})
                _check_answers(process, made, student, examples, Path(scratch))
            files = {
                file.relative_to(made).as_posix(): storage.sha256(file.read_bytes())
                for file in sorted(made.rglob("*"))
                if file.is_file()
            }
            storage.write_folder(folder, made)
            store.commit(
                storage.join(folder, model_folder.RECORD),
                key,
                files,
                student=of_student.digest,
                weights=of_student.what["weights"],
                inputs=pyfunc_inputs.described(examples.shape[1:], str(examples.dtype)),
                classes=classes,
            )
        return None
    except Exception as error:  # factory, MLflow and storage may fail in any way; the run is complete without the model
        model_folder.remove(place)
        return str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"


def is_there(place: str, key: str) -> bool:
    """Whether a complete model with the digest `key` exists below `place`."""
    try:
        record = model_folder.read(place)
        if record is None or record.key != key:
            return False
        with tempfile.TemporaryDirectory(prefix="stillhouse-model-") as scratch:
            model_folder.fetch(place, record, Path(scratch))
        return True
    except Exception as error:  # damaged or unreadable
        logger.info("the student's model is written again: %s", error)
        return False


def _save(folder: Path, student: Member, examples: NDArray[Any], about: Mapping[str, Any]) -> None:
    """Write the model in MLflow's format into `folder`. about: further keys of its configuration in `pyfunc`."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    import workers
    from workers import pyfunc

    beside = folder.with_name("parts")
    artifacts = {pyfunc.WEIGHTS: str(beside / student.model.weights_name)}
    beside.mkdir()
    Path(artifacts[pyfunc.WEIGHTS]).write_bytes(storage.read_bytes(student.weights))
    files, of_model = model_provenance.files_of(student.model), _code_folder(student.model)
    for path, content in files.items():
        place = beside / Path(model_folder.CODE).name / path.relative_to(of_model)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    if files:
        artifacts[pyfunc.CODE] = str(beside / Path(model_folder.CODE).name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that the signature is explicit and not inferred
        mlflow.pyfunc.save_model(
            folder,
            python_model=inspect.getfile(pyfunc),
            artifacts=artifacts,
            model_config={
                pyfunc.MODEL: student.model.model_dump(mode="json", exclude={"folder", "depends_on"}),
                pyfunc.SHAPE: list(examples.shape[1:]),
                pyfunc.DTYPE: str(examples.dtype),
                **about,
            },
            code_paths=[os.path.dirname(inspect.getfile(workers))],
            # No input: MLflow would reject float64 for a float32 model, and single examples.
            signature=ModelSignature(outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, about[pyfunc.CLASSES]))])),
            input_example=examples,
            pip_requirements=_requirements(student.model),
        )
    _refer_to_itself(folder, f"artifacts/{student.model.weights_name}", bool(files))


def _code_folder(model: AnyModel) -> str:
    """The folder of a model's code; empty for a model without code."""
    return model.folder if isinstance(model, FactorySpec) else ""


def _refer_to_itself(folder: Path, weights: str, has_code: bool) -> None:
    """Remove bytecode and absolute paths of this machine from a model that MLflow has written."""
    for cache in list(folder.rglob("__pycache__")):
        for file in cache.iterdir():
            file.unlink()
        cache.rmdir()
    place = folder / model_folder.MLMODEL
    model = model_folder.load(place)
    model["flavors"]["python_function"] |= model_folder.flavor_of(weights, has_code)
    model_folder.check(model, weights, has_code=has_code)
    place.write_text(yaml.safe_dump(model, sort_keys=False))


def _requirements(model: AnyModel) -> list[str]:
    needed = {name: version(name) for name in (*NEEDED, *model.packages)}
    if isinstance(model, FactorySpec):
        needed |= factories.needs(model.factory, model.folder)
    return [f"{name}=={number.partition('+')[0]}" for name, number in needed.items()]


def _package_digest() -> str:
    """sha256 of the source of package `workers`, which is stored with the model."""
    import workers

    files = sorted(Path(inspect.getfile(workers)).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


@contextmanager
def _process(hidden: list[str], scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that will load a model, in an empty folder and without access to `hidden`; it imports already."""
    empty = scratch / "empty"
    empty.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", inspect.getfile(check_logged_model)],
        cwd=empty,
        env=environment_alone(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C only reaches the run, which ends this process
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"installed": _installed(), "hidden": hidden}) + "\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()


def environment_alone(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment without variables of the run, and without GPUs, since the expected values are from a CPU."""
    kept = {key: value for key, value in variables.items() if KEPT_VARIABLES.fullmatch(key)}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "MLFLOW_LOGGING_LEVEL": "ERROR"}


def _installed() -> list[str]:
    """Folders of installed distributions, without editable installs and PYTHONPATH."""
    names = ("site-packages", "dist-packages")
    found = (Path(place) for place in sys.path if place)
    return [str(place) for place in found if place.name in names or any(place.glob("*.dist-info"))]


def _check_answers(
    process: subprocess.Popen[str], model: Path, student: Member, examples: NDArray[Any], scratch: Path
) -> None:
    """Raise `Unusable` unless `process` loads `model` and its predictions match those of `student`."""
    example, answers = scratch / "example.npy", scratch / "answers.npy"
    np.save(example, examples, allow_pickle=False)
    asked = {"model": str(model), "example": str(example), "answers": str(answers)}
    predictor = teacher.load(student)
    with torch.no_grad():
        expected = torch.softmax(predictor(as_tensor(examples)).logits, -1).numpy()
    try:
        _, errors = process.communicate(json.dumps(asked) + "\n", timeout=LOAD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Unusable(f"a process of its own did not load it within {LOAD_TIMEOUT_S:g} s") from None
    if process.returncode != 0 or not answers.exists():
        raise Unusable(f"a process of its own, in an empty folder, could not load it: {_last_line(errors)}")
    found = np.load(answers, allow_pickle=False)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
        off = f" (by up to {np.abs(found - expected).max():.2g})" if found.shape == expected.shape else ""
        raise Unusable(f"loaded by a process of its own it gives other probabilities{off}")


def _last_line(errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    return redacted(lines[-1].strip()) if lines else "it ended without an error message"
