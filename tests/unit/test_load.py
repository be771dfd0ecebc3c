"""`load.py` of an export: what it takes as examples, without Stillhouse."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from orchestrator.export import formats, load, load_alone
from tests import texts
from workers.data import tokens
from workers.data.collate import NamedInputs, collate
from workers.data.examples import Columns
from workers.data.texts import of_strings
from workers.inference.teacher import Member
from workers.models.torch_module import TorchPredictor
from workers.specs.models import ModelSpec

ABOUT = {"format": "counted", "classes": 2, "labels": ["a", "b"]}


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, NDArray[Any]]]:
    """A format that keeps its batches, and returns the first two numbers of each row as logits."""
    batches: list[dict[str, NDArray[Any]]] = []

    def logits(batch: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        batches.append(batch)
        return np.asarray(next(iter(batch.values())).reshape(len(next(iter(batch.values()))), -1)[:, :2], np.float32)

    monkeypatch.setitem(load.LOADERS, "counted", lambda *_: logits)
    return batches


def student(folder: Path, inputs: dict[str, Any]) -> Any:
    (folder / "export.json").write_text(json.dumps({**ABOUT, "inputs": inputs}))
    return load.load(folder)


ROWS = np.arange(12.0).reshape(3, 2, 2)


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        ROWS.tolist(),
        ROWS.astype(np.int64),
        pandas.DataFrame(ROWS.reshape(3, 4)),
        pandas.DataFrame(ROWS.reshape(3, 4), dtype=object),
    ],
    ids=["float64", "lists", "integers", "a data frame", "a data frame of objects"],
)
def test_arrays_of_any_kind(tmp_path: Path, given: Any, counted: list[dict[str, NDArray[Any]]]) -> None:
    answers = student(tmp_path, {"kind": "array", "dtype": "float32", "shape": [2, 2]})(given)
    np.testing.assert_array_equal(counted[0]["input"], ROWS.astype(np.float32))
    assert counted[0]["input"].dtype == np.float32 == answers.dtype
    np.testing.assert_allclose(answers, np.repeat([[1 / (1 + np.e), np.e / (1 + np.e)]], 3, axis=0), rtol=1e-6)


def test_many_examples_are_computed_in_batches_and_none_at_all(
    tmp_path: Path, counted: list[dict[str, NDArray[Any]]]
) -> None:
    answer = student(tmp_path, {"kind": "array", "dtype": "int64", "shape": [2]})
    assert answer(np.zeros((150, 2))).shape == (150, 2)
    assert [len(batch["input"]) for batch in counted] == [64, 64, 22]
    assert answer(np.zeros((0, 2))).shape == (0, 2)


def test_one_example_is_a_batch_of_one(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    assert student(tmp_path, {"kind": "array", "dtype": "float32", "shape": [2, 2]})(ROWS[1]).shape == (1, 2)
    np.testing.assert_array_equal(counted[0]["input"], ROWS[1:2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 16)), r"shape \[3, 16\]; expected \[N, 8\], one example \[8\]"),
        (pandas.DataFrame(np.zeros((4, 2))), r"shape \[4, 2\]"),
        (np.zeros(16), r"shape \[16\]"),
        (np.zeros((2, 2, 4)), r"shape \[2, 2, 4\]"),
        ([[0.0] * 8, [0.0] * 7], "different lengths"),
        ([["a"] * 8], "expected numbers that float32 has"),
    ],
)
def test_arrays_of_another_width_are_refused(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(tmp_path, {"kind": "array", "dtype": "float32", "shape": [8]})(given)


IDS = [[1.9, 2], [np.nan, 2], [np.inf, 2], [1e300, 2], np.array([2**63, 2], np.uint64)]


@pytest.mark.parametrize("given", IDS)
@pytest.mark.parametrize("kind", ["array", "columns"])
def test_ids_are_whole_numbers(tmp_path: Path, kind: str, given: Any) -> None:
    inputs = {"array": {"dtype": "int64", "shape": [2]}, "columns": {"names": {"ids": "int64"}}}[kind]
    answer = student(tmp_path, {"kind": kind, **inputs})
    with pytest.raises(ValueError, match=r"fractions, NaN or numbers too large; expected numbers that int64 has"):
        answer({"array": [given], "columns": {"ids": [given]}}[kind])


TEXTS = ["river 7", "the goal of the match"]
SETTINGS = {"truncation_side": "right", "split_special_tokens": False}
FRAME = pandas.DataFrame({"text": TEXTS})


@pytest.mark.parametrize("given", [TEXTS, np.array(TEXTS), FRAME, FRAME["text"], tuple(TEXTS)])
def test_texts_are_cut_and_padded_as_in_the_run(
    tmp_path: Path, given: Any, counted: list[dict[str, NDArray[Any]]]
) -> None:
    texts.tokenizer(tmp_path)
    inputs = {"kind": "texts", "names": ["input_ids", "attention_mask"], "tokenizer": "tokenizer.json", "padding": 9}
    student(tmp_path, {**inputs, **SETTINGS, "max_length": 5})(given)
    known = {word: 5 + k for k, word in enumerate(texts.WORDS)}
    cls, sep, seven = 2, 3, 5 + len(texts.WORDS) + 7
    long = [cls, known["the"], known["goal"], known["of"], sep]
    assert counted[0]["input_ids"].tolist() == [[cls, known["river"], seven, sep, 9], long]
    assert counted[0]["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("split", [True, False])
def test_tokens_are_those_of_the_run_for_each_setting_of_the_tokenizer(
    tmp_path: Path, side: str, split: bool, counted: list[dict[str, NDArray[Any]]]
) -> None:
    from transformers import AutoTokenizer

    settings = {"truncation_side": side, "split_special_tokens": split}
    AutoTokenizer.from_pretrained(texts.tokenizer(tmp_path / "encoder"), **settings).save_pretrained(tmp_path / "set")
    uri, given = str(tmp_path / "set"), ["the [MASK] goal of the match [MASK]"]
    columns = tokens.Tokenization(uri, 6)(of_strings(given))
    model = ModelSpec(factory="nets:net", tokenizer=uri, max_length=6)
    sample = collate(Columns(columns), np.arange(1))
    assert isinstance(sample, NamedInputs)
    made = formats.Student(Member("student", model, ""), TorchPredictor(torch.nn.Embedding(64, 2)), sample)
    student(tmp_path, formats._inputs(made, tmp_path)["inputs"])(given)
    expected = sample.padded()["input_ids"].tolist()
    assert counted[0]["input_ids"].tolist() == expected
    assert (4 in expected[0]) != split, "the token [MASK] is 4"


def test_pairs_of_texts_and_one_text(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    texts.tokenizer(tmp_path)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    asked = {"kind": "texts", "names": names, "tokenizer": "tokenizer.json", "padding": 0, "max_length": None}
    asked |= SETTINGS
    answer = student(tmp_path, asked)
    for given in ([("river", "goal")], [["river", "goal"]], pandas.DataFrame({"a": ["river"], "b": ["goal"]})):
        answer(given)
        assert counted[-1]["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    assert answer("river").shape == (1, 2)


def test_named_columns(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    asked = {"kind": "columns", "names": {"a": "float32", "b": "int64"}}
    student(tmp_path, asked)({"a": [[1.0, 2.0]], "b": [[3]], "unused": [0]})
    assert counted[0]["a"].dtype == np.float32 and counted[0]["b"].dtype == np.int64 and set(counted[0]) == {"a", "b"}


def test_named_columns_that_do_not_fit(tmp_path: Path) -> None:
    answer = student(tmp_path, {"kind": "columns", "names": {"a": "float32", "b": "int64"}})
    with pytest.raises(ValueError, match="no column 'b'; expected a, b"):
        answer({"a": [[1.0]]})
    with pytest.raises(ValueError, match="columns of different lengths"):
        answer({"a": [[1.0], [2.0]], "b": [[3]]})
    assert answer({"a": [], "b": []}).shape == (0, 2)


NET = """
import importlib
import torch
from layers import Scaled
import parts.sizes
import parts.sizes as sizes
from parts import sizes as again

def net():
    assert parts.sizes is sizes is again is importlib.import_module("parts.sizes")
    return Scaled()
"""
LAYERS = """
import torch

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x):
        import importlib
        from parts import factor
        from parts.sizes import SIZE
        import lazy
        return x * self.weight * factor * SIZE + importlib.import_module("lazier").SHIFT * lazy.SHIFT
"""


def export_of_code(folder: Path, number: int) -> Any:
    """A student whose logits follow from `number`, by code in several files of the same names each time."""
    (folder / "code" / "parts").mkdir(parents=True)
    for name, content in {
        "models": NET,
        "layers": LAYERS,
        "lazy": f"SHIFT = [0, {number}][torch.ones(1).long()]".replace("torch", "__import__('torch')"),
        "lazier": "SHIFT = 1",
        "parts/__init__": "from .sizes import SIZE as factor",
        "parts/sizes": f"SIZE = {number}",
    }.items():
        (folder / "code" / f"{name}.py").write_text(content)
    save_file({"weight": torch.tensor([1.0, -1.0])}, folder / "model.safetensors")
    inputs = {"kind": "array", "dtype": "float32", "shape": [2]}
    about = {"format": "torch", "weights": "model.safetensors", "code": "code", "factory": "models:net", "kwargs": {}}
    (folder / "export.json").write_text(json.dumps({**ABOUT, **about, "inputs": inputs}))
    return load.load(folder)


def test_each_export_answers_by_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models", "layers", "lazy", "parts"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    before, path = dict(sys.modules), list(sys.path)
    students = {number: export_of_code(tmp_path / str(number), number) for number in (1, 2)}
    for number in (1, 2, 1):
        expected = 1 / (1 + np.exp(-2 * 0.1 * number**2))
        np.testing.assert_allclose(students[number]([[0.1, 0.1]])[0, 0], expected, rtol=1e-5)
    assert {name: sys.modules[name] for name in before} == before and sys.path == path
    assert not {"lazier", "parts.sizes"} & sys.modules.keys()
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize("module", [load, load_alone])
def test_it_imports_nothing_of_stillhouse(module: Any) -> None:
    imported = re.findall(r"^\s*(?:from|import) (\w+)", inspect.getsource(module), re.MULTILINE)
    assert imported and not {"orchestrator", "workers", "stillhouse"} & set(imported)
