"""`load.py` of an export: what it takes as examples, without Stillhouse."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray

from orchestrator.export import load, load_alone
from tests import texts

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
    [ROWS, ROWS.tolist(), ROWS.astype(np.int64), pandas.DataFrame(ROWS.reshape(3, 4))],
    ids=["float64", "lists", "integers", "a data frame"],
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


TEXTS = ["river 7", "the goal of the match"]
FRAME = pandas.DataFrame({"text": TEXTS})


@pytest.mark.parametrize("given", [TEXTS, np.array(TEXTS), FRAME, FRAME["text"], tuple(TEXTS)])
def test_texts_are_cut_and_padded_as_in_the_run(
    tmp_path: Path, given: Any, counted: list[dict[str, NDArray[Any]]]
) -> None:
    texts.tokenizer(tmp_path)
    inputs = {"kind": "texts", "names": ["input_ids", "attention_mask"], "tokenizer": "tokenizer.json", "padding": 9}
    student(tmp_path, {**inputs, "max_length": 5})(given)
    known = {word: 5 + k for k, word in enumerate(texts.WORDS)}
    cls, sep, seven = 2, 3, 5 + len(texts.WORDS) + 7
    long = [cls, known["the"], known["goal"], known["of"], sep]
    assert counted[0]["input_ids"].tolist() == [[cls, known["river"], seven, sep, 9], long]
    assert counted[0]["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]


def test_pairs_of_texts_and_one_text(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    texts.tokenizer(tmp_path)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    asked = {"kind": "texts", "names": names, "tokenizer": "tokenizer.json", "padding": 0, "max_length": None}
    answer = student(tmp_path, asked)
    for given in ([("river", "goal")], [["river", "goal"]], pandas.DataFrame({"a": ["river"], "b": ["goal"]})):
        answer(given)
        assert counted[-1]["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    assert answer("river").shape == (1, 2)


def test_named_columns(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    asked = {"kind": "columns", "names": {"a": "float32", "b": "int64"}}
    student(tmp_path, asked)({"a": [[1.0, 2.0]], "b": [[3]], "unused": [0]})
    assert counted[0]["a"].dtype == np.float32 and counted[0]["b"].dtype == np.int64 and set(counted[0]) == {"a", "b"}


@pytest.mark.parametrize("module", [load, load_alone])
def test_it_imports_nothing_of_stillhouse(module: Any) -> None:
    imported = re.findall(r"^\s*(?:from|import) (\w+)", inspect.getsource(module), re.MULTILINE)
    assert imported and not {"orchestrator", "workers", "stillhouse"} & set(imported)
