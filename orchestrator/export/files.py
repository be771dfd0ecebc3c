"""The files beside an export's weights: `load.py`, `requirements.txt`, the card and `export.json`; and a trial of them.

A separate process loads the export in an empty folder by its own `load.py`, without this run's environment variables,
and its answers must be those of the files as they were measured.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.export import check_export, load, target
from orchestrator.export.formats import Made, Student
from orchestrator.export.student_model import LOAD_TIMEOUT_S, environment_alone
from workers import json_text, storage
from workers.data.collate import Strip, widened
from workers.data.dataset import Dataset
from workers.data.examples import Columns
from workers.data.texts import PAIR, TEXT, strings
from workers.errors import RunError
from workers.models import predictor
from workers.specs.models import ModelSpec
from workers.user_code import factories, origins

CARD, LOAD, REQUIREMENTS = "README.md", "load.py", "requirements.txt"
EXAMPLES = 3
"""Test examples that the trial asks for."""
TOLERANCE = 1e-3
"""Largest accepted difference between the probabilities of two processes."""


def write(folder: Path, about: Mapping[str, Any], card: str, made: Made, student: Student) -> None:
    """Write the files beside the weights, the record with a digest of each of them last."""
    shutil.copyfile(inspect.getfile(load), folder / LOAD)
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements(about, made, student)))
    files = {
        path.relative_to(folder).as_posix(): storage.sha256(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    record = {**about, target.FILES: files}
    (folder / target.RECORD).write_text(json_text.dumps(record, indent=1) + "\n", encoding="utf-8")


def requirements(about: Mapping[str, Any], made: Made, student: Student) -> list[str]:
    """What `load.py` needs, in the installed versions. `onnxruntime` may come from onnxruntime-gpu, for example."""
    names = ["numpy", *made.modules, *(["tokenizers"] if about["inputs"]["kind"] == "texts" else [])]
    found = dict(owner for name in names if (owner := origins.provider(name)) is not None)
    model = student.member.model
    if isinstance(model, ModelSpec) and about["format"] == "torch":
        found |= factories.needs(model.factory, model.folder)
    return [f"{name}=={number.partition('+')[0]}" for name, number in sorted(found.items())]


def check(folder: Path, made: Made, dataset: Dataset, about: Mapping[str, Any]) -> None:
    """Raise `RunError` unless a separate process loads the export, with the same answers."""
    rows = np.linspace(0, len(dataset.test) - 1, min(EXAMPLES, len(dataset.test))).astype(np.int64)
    x = predictor.collator(made.model)(dataset.test.x, rows)
    found = predictor.load(made.model, made.weights)
    with torch.no_grad():
        pieces = x.split(about.get("batch", load.BATCH))
        expected = torch.cat([torch.softmax(found(piece).logits, dim=-1) for piece in pieces]).numpy()
    scratch = folder.with_name("trial")
    (scratch / "empty").mkdir(parents=True)
    inputs, outputs = _written(scratch, dataset, rows, widened(x), about["inputs"]), scratch / "answers.npy"
    done = _loaded_alone(folder, inputs, outputs, scratch / "empty")
    if done.returncode != 0 or not outputs.exists():
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise RunError(
            f"the export cannot be loaded by a process of its own, in an empty folder: {''.join(last)}. Nothing was "
            "written. What the student needs may lie outside its folder; `--format onnx` needs no code."
        )
    answers: NDArray[np.float32] = np.load(outputs, allow_pickle=False)
    if not isinstance(x, torch.Tensor) and x.positions is not None and answers.ndim == 3:
        answers = x.at_positions(torch.from_numpy(answers)).numpy()
    if answers.shape != expected.shape or not np.allclose(answers, expected, rtol=0, atol=TOLERANCE):
        off = np.abs(answers - expected).max() if answers.shape == expected.shape else float("nan")
        raise RunError(
            f"loaded by a process of its own, the export gives other probabilities (by up to {off:.2g}). Expected the "
            f"run's within {TOLERANCE:g}. Nothing was written. Remove what depends on files, variables or the process "
            "from the student's factory; `--format onnx` needs no code."
        )


def _loaded_alone(folder: Path, inputs: Path, outputs: Path, empty: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [sys.executable, "-I", "-B", inspect.getfile(check_export), str(folder), str(inputs), str(outputs)],
            cwd=empty,
            env=environment_alone(os.environ),
            capture_output=True,
            text=True,
            timeout=LOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"a process of its own did not load the export within {LOAD_TIMEOUT_S:g} s. Nothing was written. Code of "
            "the student may wait for something; `--format onnx` needs no code."
        ) from None


def _written(scratch: Path, dataset: Dataset, rows: NDArray[np.int64], x: Any, inputs: Mapping[str, Any]) -> Path:
    """Examples as a caller of `load.py` would send them, in a file. inputs: of the student, in `export.json`."""
    if inputs["kind"] == "texts":
        given = dataset.test.x
        assert isinstance(given, Columns)
        columns = [strings(given.columns[name][rows]) for name in (TEXT, PAIR)[: inputs["texts"]]]  # type: ignore[arg-type]
        texts = columns[0] if len(columns) == 1 else [list(pair) for pair in zip(*columns, strict=True)]
        path = scratch / "examples.json"
        path.write_text(json.dumps(texts), encoding="utf-8")
        return path
    if inputs["kind"] == "array":
        column = x if isinstance(x, torch.Tensor) else x.single
        path = scratch / "examples.npy"
        np.save(path, column.numpy(), allow_pickle=False)
        return path
    path = scratch / "examples.json"
    path.write_text(json.dumps({name: _rows(column) for name, column in x.columns.items()}), encoding="utf-8")
    return path


def _rows(column: torch.Tensor | Strip) -> list[Any]:
    """The rows of a column, of different lengths where it is ragged, as they stand in JSON."""
    if isinstance(column, torch.Tensor):
        return column.tolist()
    return [row.tolist() for row in column.values.split(column.lengths.tolist())]
