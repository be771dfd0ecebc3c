"""The formats of an export: which students have each, the files of each, and how these files are loaded to be measured.

`onnx`: a graph in one file, for ONNX Runtime; the student's own code is not needed. `torch`: weights as safetensors
beside the factory's files, which give back the module itself, to be trained further or compiled; `torch.export` would
give a graph instead, and cannot trace every network. `transformers`: a folder for `from_pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workers import json_text, storage
from workers.data import tokens
from workers.data.collate import Inputs, NamedInputs, Strip, widened
from workers.data.dataset import Dataset
from workers.data.examples import by_length, columns_of
from workers.data.texts import PAIR
from workers.data.tokens import Tokenization
from workers.errors import RequestError
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import onnx_export, predictor
from workers.models import provenance as model_provenance
from workers.models.torch_module import TorchPredictor
from workers.models.transformers_module import TransformersPredictor
from workers.redact import has_secrets
from workers.specs.models import AUTO, AnyModel, ModelSpec, OnnxModel, TransformersModel

GRAPH, CODE, TOKENIZER = "model.onnx", "code", tokens.FILE
"""Names of files and folders in an export."""
SAMPLE = 3
"""Test examples that a graph is traced with."""


@dataclass(frozen=True)
class Made:
    """An export's files in a local folder.

    model, weights: how Stillhouse loads them, to measure them. about: what `load.py` needs to know. modules: that
    `load.py` imports, of whatever distribution.
    """

    model: AnyModel
    weights: str
    about: dict[str, Any]
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Student:
    """The trained student, in torch, and a batch of test examples, which it was not trained on."""

    member: Member
    predictor: TorchPredictor
    sample: Inputs
    texts: int = 1
    """Texts of an example, if it has any: 2 for pairs."""

    @property
    def tokens(self) -> Tokenization | None:
        """How its texts become tokens; None where it takes columns as they are."""
        return predictor.collator(self.member.model).tokens

    @property
    def columns(self) -> dict[str, torch.Tensor]:
        """The sample as the module's arguments, or by `onnx_export.INPUT`."""
        return onnx_export.columns_of(self.predictor.module, widened(self.sample))


@dataclass(frozen=True)
class Format:
    """A format. of: the kinds of students that have it. write: its files, into a local folder."""

    of: tuple[type, ...]
    write: Callable[[Student, Path], Made]


def check(name: str, quantized: str | None, model: AnyModel) -> None:
    """Raise `RequestError` where a student has no such format, or a format cannot be quantized."""
    if quantized is not None and name != "onnx":
        raise RequestError(
            f"--quantize {quantized}: not of `--format {name}`. Expected `--format onnx`: ONNX Runtime quantizes it."
        )
    if isinstance(model, FORMATS[name].of):
        if isinstance(model, ModelSpec) and has_secrets(model.kwargs):
            raise RequestError("student.model.kwargs has a secret in it, which an export would publish. Remove it.")
        return
    has = [f"`--format {each}`" for each, of in FORMATS.items() if isinstance(model, of.of)]
    instead = f"It has {' and '.join(has)}." if has else "MLflow serves it as it is (docs/MLFLOW.md)."
    raise RequestError(
        f"--format {name}: a format that the student has not. It is the model {model.label} of kind '{model.kind}'. "
        f"{instead}"
    )


def student_of(member: Member, dataset: Dataset) -> Student:
    """Load the student, and a batch of the longest, the shortest and other test examples."""
    found, x = teacher.load(member), dataset.test.x
    assert isinstance(found, TorchPredictor), "`check` refuses others"
    order = by_length(x, np.arange(len(x)))
    rows = np.arange(len(x)) if order is None else order[::-1]  # the longest first
    rows = np.resize(rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)], SAMPLE)
    collator = predictor.collator(member.model)
    return Student(member, found, collator(x, rows), 2 if PAIR in columns_of(collator.chosen(x)) else 1)


def quantize(folder: Path) -> None:
    """Put a graph in int8 in the place of the export's."""
    whole, graph = folder / "float.onnx", folder / GRAPH
    graph.rename(whole)
    onnx_export.quantize(whole, graph)
    whole.unlink()


def _onnx(student: Student, folder: Path) -> Made:
    model, graph = student.member.model, folder / GRAPH
    onnx_export.write(student.predictor.module, student.sample, graph, model.label)
    tokenizer = None if student.tokens is None else model.tokenizer
    spec = OnnxModel(
        kind="onnx", path=str(graph), output="logits", tokenizer=tokenizer, max_length=model.max_length,
        inputs=model.inputs,
    )  # fmt: skip
    described = _inputs(student, folder)
    if described["kind"] != "array":
        described["graph"] = onnx_export.inputs_of(described["names"])
    return Made(spec, str(graph), {"weights": GRAPH, "inputs": described}, ("onnxruntime",))


def _torch(student: Student, folder: Path) -> Made:
    model = student.member.model
    assert isinstance(model, ModelSpec)
    _check_kwargs(model)
    if outside := model_provenance.files_outside(model):
        raise RequestError(
            f"--format torch: the student's model {model.label} reads '{outside[0]}', outside its own folder "
            f"'{model.folder}', so that a copy of the folder would not build it. Move the file there, or use "
            "`--format onnx`, which needs no code."
        )
    for path, content in model_provenance.files_of(model).items():
        place = folder / CODE / path.relative_to(model.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    (folder / CODE).mkdir(exist_ok=True)
    weights = folder / model.weights_name
    weights.write_bytes(storage.read_bytes(student.member.weights))
    about = {"weights": weights.name, "code": CODE, "factory": model.factory, "kwargs": model.kwargs}
    spec = model.model_copy(update={"folder": str(folder / CODE), "depends_on": ()})
    return Made(spec, str(weights), {**about, "inputs": _inputs(student, folder)}, ("torch", "safetensors"))


def _check_kwargs(model: ModelSpec) -> None:
    """Raise `RequestError` where `export.json` would give the factory other arguments than the run did."""
    for name, value in model.kwargs.items():
        if json.loads(json_text.dumps(value)) != value:
            raise RequestError(
                f"--format torch: student.model.kwargs.{name} is {value!r:.100}, which JSON cannot hold as it is. "
                "Expected texts, numbers, lists, and dictionaries with texts as keys; `--format onnx` needs none."
            )


def _transformers(student: Student, folder: Path) -> Made:
    model = student.member.model
    assert isinstance(model, TransformersModel)
    weights = folder / model.weights_name
    weights.write_bytes(storage.read_bytes(student.member.weights))
    for name, content in TransformersPredictor.companions(model).items():
        (folder / name).write_bytes(content)
    about: dict[str, Any] = {"weights": weights.name, "auto_class": AUTO[model.task]}
    spec = model.complete_at(str(folder))
    about["inputs"] = _inputs(student, folder)
    return Made(spec, str(folder), about, ("transformers", "torch", "safetensors"))


def _inputs(student: Student, folder: Path) -> dict[str, Any]:
    """How `load.py` makes batches of a caller's examples. Writes the tokenizer, if there is one."""
    sample, columns, tokens_of = student.sample, student.columns, student.tokens
    names = {name: str(column.numpy().dtype) for name, column in columns.items()}
    positions = predictor.kind_of(student.member.model).positions(student.member.model)
    of_examples = isinstance(sample, torch.Tensor) or sample.positions is None
    if onnx_export.single_of(sample) is not None:
        (column,) = columns.values()
        found: dict[str, Any] = {"kind": "array", "dtype": names[onnx_export.INPUT], "shape": list(column.shape[1:])}
        return {**found, "elements_of": None if of_examples else onnx_export.INPUT}
    assert isinstance(sample, NamedInputs)
    if tokens_of is None or not of_examples or set(names) - TOKENS:
        elements_of = None if of_examples else sample.elements_of
        return {
            "kind": "columns",
            "names": names,
            "ragged": _rows(sample, names, positions),
            "elements_of": elements_of,
        }
    if not (folder / TOKENIZER).exists():
        (folder / TOKENIZER).write_text(tokens.file_of(tokens_of.uri), encoding="utf-8")
    found = {
        "kind": "texts",
        "texts": student.texts,
        "names": list(names),
        "tokenizer": TOKENIZER,
        "padding": sample.padding.get(tokens.IDS, 0),
    }
    settings = {name: getattr(tokens.load(tokens_of.uri), name) for name in SETTINGS}
    return {**found, "max_length": tokens_of.max_length, "positions": positions, **settings}


def _rows(sample: NamedInputs, names: Mapping[str, str], positions: int | None) -> dict[str, Any]:
    """The columns that have rows of different lengths, with the value that pads them and the name of their mask (None:
    it is a column of its own, or that of another); of tokens also how many the network has positions for."""
    return {
        name: {
            "padding": sample.padding.get(name, 0),
            "mask": sample.masks.get(name),
            **({"positions": positions} if name == tokens.IDS else {}),
        }
        for name, column in sample.columns.items()
        if isinstance(column, Strip) and name in names
    }


TOKENS = {tokens.IDS, tokens.TYPES, "attention_mask"}
"""The columns that `load.py` makes of texts."""
SETTINGS = ("truncation_side", "split_special_tokens")
"""Attributes of a tokenizer that change its tokens, and that `tokenizer.json` lacks."""
FORMATS: Mapping[str, Format] = {
    "onnx": Format((ModelSpec, TransformersModel), _onnx),
    "torch": Format((ModelSpec,), _torch),
    "transformers": Format((TransformersModel,), _transformers),
}
