"""The files beside an export's weights: requirements, and the names of the columns that `load.py` takes."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from orchestrator.cli.checks import request
from orchestrator.export import files, load, named
from orchestrator.export.formats import Made, Student
from workers.data import loading
from workers.data.encoded_tables import Encoding
from workers.inference.teacher import Member
from workers.specs.data import DataSpec
from workers.specs.models import ModelSpec, OnnxModel
from workers.user_code import origins


def test_requirements_are_the_distributions_that_have_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"numpy": ["numpy"], "onnxruntime": ["onnxruntime-gpu"], "tokenizers": ["tokenizers"]}
    monkeypatch.setattr(origins, "_owners", lambda: owners)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.2+cu126" if name[:4] == "onnx" else version(name)
    )
    made = Made(OnnxModel(kind="onnx", path=""), "", {}, ("onnxruntime",))
    student: Any = Student(Member("student", ModelSpec(factory="nets:mlp"), ""), None, None)  # type: ignore[arg-type]
    found = files.requirements({"format": "onnx", "inputs": {"kind": "texts"}}, made, student)
    assert [line.partition("==")[0] for line in found] == ["numpy", "onnxruntime-gpu", "tokenizers"]
    assert found[1] == "onnxruntime-gpu==1.2"
    owners["onnxruntime"] = ["onnxruntime-gpu", "onnxruntime"]
    assert origins.provider("onnxruntime") == ("onnxruntime", "1.2+cu126"), "not both, which replace each other's files"
    assert origins.provider("no_such_module") is None


def test_packages_are_found_by_their_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    assert request._is_installed("onnxruntime") and request._is_installed("scikit-learn")
    assert not request._is_installed("gcsfs_of_nobody")


PEOPLE = pandas.DataFrame(
    {
        "age": [20.0, np.nan, 40.0, 30.0, 25.0, 50.0] * 4,
        "city": ["Rome", "Bern", None, "Rome", "Bern", "Oslo"] * 4,
        "marks": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [0.5, 1.0], [2.0, 2.0], [9.0, 1.0]] * 4,
        "kind": [1, 0, 1, 1, 0, 1] * 4,
        "bought": ["yes", "no"] * 12,
        "user": range(24),
    }
)


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [("table", None), ("table", ["marks", "age"]), ("parquet", ["kind", "marks"]), ("parquet", None)],
)
def test_a_table_becomes_the_numbers_of_the_run(tmp_path: Path, kind: str, chosen: list[str] | None) -> None:
    frame = PEOPLE if kind == "table" else PEOPLE.drop(columns=["age", "city"]).assign(bought=[0, 1] * 12)
    frame.set_index(np.arange(24) + 5).to_parquet(tmp_path / "people.parquet")
    path = str(tmp_path / "people.parquet")
    spec = DataSpec.model_validate(
        {
            "kind": kind, "train": path, "test": path, "allow_overlap": True, "validation_share": 0.5,
            "label_column": "bought", "group_column": "user", "feature_columns": chosen,
        }
    )  # fmt: skip
    dataset = loading.load(spec, 0)
    x = dataset.test.x
    inputs = {"kind": "array", "shape": list(x.shape[1:])}  # type: ignore[union-attr]
    columns = named.columns(spec, dataset.encodings, inputs)["columns"]
    table = load.Table.of(frame[sorted(frame.columns, reverse=True)])
    assert table is not None
    np.testing.assert_array_equal(table.numbers(columns).astype(np.float32), np.asarray(x[:], np.float32))  # type: ignore[index]
    assert not named.columns(spec, dataset.encodings, {"kind": "columns"})
    assert not named.columns(spec, dataset.encodings, {"kind": "array", "shape": [99]})


def test_an_export_names_the_text_columns_that_its_student_takes(tmp_path: Path) -> None:
    spec = DataSpec.model_validate({"kind": "text", "train": "a.jsonl", "test": "b.jsonl", "text_column": ["q", "p"]})
    assert named.columns(spec, (), {"kind": "texts", "texts": 2}) == {"columns": ["q", "p"]}
    assert named.columns(spec, (), {"kind": "texts", "texts": 1}) == {"columns": ["q"]}, (
        "of a student of the first alone"
    )
    spec = DataSpec.model_validate({"kind": "npz", "train": "a.npz", "test": "b.npz"})
    assert not named.columns(spec, (), {"kind": "array", "shape": [3]})


def test_the_scale_of_pixels_is_that_of_bytes() -> None:
    of: Any = {kind: SimpleNamespace(kind=kind) for kind in ("idx", "images", "npz")}
    assert (
        named.pixels(of["idx"], torch.ones(1, 2)) == named.pixels(of["images"], torch.ones(1, 2)) == {"byte_scale": 255}
    )
    assert not named.pixels(of["npz"], torch.ones(1, 2))
    for floats in (torch.full((1, 2), 255.0), torch.full((1, 2), -1.0), torch.full((1, 2), 1 / 16)):
        assert not named.pixels(of["idx"], floats), "a file of floats"


def test_numbers_of_a_table_have_names_where_each_has_one() -> None:
    of_table = [Encoding("age", 30.0, True), Encoding("city", categories=("", "Rome"))]
    assert named.numbers(of_table, [4]) == {"names": ["age", "age is empty", "city=", "city=Rome"]}
    assert named.numbers([Encoding("a"), Encoding("b")], [2]) == {"names": ["a", "b"]}, "of kind parquet"
    assert not named.numbers([Encoding("image", width=4)], [2, 2]) and not named.numbers([], [2])
