"""`load.py` of an export: what it takes as examples, without Stillhouse."""

from __future__ import annotations

import decimal
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from orchestrator.export import check_export, formats, load
from tests import texts
from workers.data import tokens
from workers.data.collate import NamedInputs, collate
from workers.data.examples import Columns
from workers.data.texts import of_strings
from workers.inference.teacher import Member
from workers.models import checkpoints
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


def student(folder: Path, inputs: dict[str, Any], **more: Any) -> Any:
    (folder / "export.json").write_text(json.dumps({**ABOUT, "inputs": inputs, **more}))
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


def test_an_int8_graph_gets_one_example_at_a_time(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    texts.tokenizer(tmp_path)
    of_texts = {
        "kind": "texts",
        "names": ["input_ids"],
        "tokenizer": "tokenizer.json",
        "padding": 0,
        "max_length": None,
    }
    student(tmp_path, {"kind": "array", "dtype": "int64", "shape": [2]}, batch=1)(np.zeros((3, 2)))
    student(tmp_path, {"kind": "columns", "names": {"a": "float32"}}, batch=1)({"a": [[1.0, 2.0]] * 3})
    student(tmp_path, {**of_texts, **SETTINGS}, batch=1)(["river", "goal", "the match"])
    assert [len(next(iter(batch.values()))) for batch in counted] == [1] * 9


def test_one_example_is_a_batch_of_one(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    assert student(tmp_path, {"kind": "array", "dtype": "float32", "shape": [2, 2]})(ROWS[1]).shape == (1, 2)
    np.testing.assert_array_equal(counted[0]["input"], ROWS[1:2])


@pytest.mark.parametrize("given", [[1, 2, 3], np.ones(3), pandas.Series([1.0, 2, 3]), [[1], [2], [3]], [1], []])
def test_examples_of_one_number(tmp_path: Path, given: Any, counted: list[dict[str, NDArray[Any]]]) -> None:
    student(tmp_path, {"kind": "array", "dtype": "float32", "shape": [1]})(given)
    assert [batch["input"].shape for batch in counted] == ([(len(given), 1)] if len(given) else [])


@pytest.mark.parametrize("given", [["river", None], [3], pandas.DataFrame({"text": ["river", np.nan]}), [("a", 2)]])
def test_what_is_no_text_is_refused(tmp_path: Path, given: Any) -> None:
    texts.tokenizer(tmp_path)
    inputs = {"kind": "texts", "names": ["input_ids"], "tokenizer": "tokenizer.json", "padding": 0, "max_length": None}
    with pytest.raises(ValueError, match=r"in row \d; expected a text\."):
        student(tmp_path, {**inputs, **SETTINGS})(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 16)), r"shape \[3, 16\]; expected \[N, 8\], one example \[8\]"),
        (pandas.DataFrame(np.zeros((4, 2))), r"shape \[4, 2\]"),
        (np.zeros(16), r"shape \[16\]"),
        (np.zeros((2, 2, 4)), r"shape \[2, 2, 4\]"),
        ([[0.0] * 8, [0.0] * 7], "different lengths"),
        ([["a"] * 8], "expected numbers that float32 has"),
        ([[0.0] * 7 + [np.inf]], "NaN or infinite numbers; expected finite ones"),
        ([[np.nan] * 8], "NaN or infinite numbers"),
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
SETTINGS = {"truncation_side": "right", "split_special_tokens": False, "texts": 1, "positions": None}
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
    student(tmp_path, formats._inputs(made, tmp_path))(given)
    expected = sample.padded()["input_ids"].tolist()
    assert counted[0]["input_ids"].tolist() == expected
    assert (4 in expected[0]) != split, "the token [MASK] is 4"


def test_pairs_of_texts_are_tokenized_together(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    texts.tokenizer(tmp_path)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    asked = {"kind": "texts", "names": names, "tokenizer": "tokenizer.json", "padding": 0, "max_length": None}
    answer = student(tmp_path, {**asked, **SETTINGS, "texts": 2})
    for given in ([("river", "goal")], [["river", "goal"]], pandas.DataFrame({"a": ["river"], "b": ["goal"]})):
        answer(given)
        assert counted[-1]["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    for wrong in ("river", ["river", "goal"], ("river", "goal"), [("river", "goal", "match")], [[]]):
        with pytest.raises(ValueError, match=r"in row 0; expected a pair of texts\."):
            answer(wrong)
    with pytest.raises(ValueError, match=r"in row 0; expected a text\."):
        student(tmp_path, {**asked, **SETTINGS})([("river", "goal")])


def test_texts_that_the_network_cannot_take_are_named(tmp_path: Path) -> None:
    texts.tokenizer(tmp_path)
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**made, "post_processor": None}))  # without special tokens
    asked = {"kind": "texts", "names": ["input_ids"], "tokenizer": "tokenizer.json", "padding": 0, "max_length": None}
    answer = student(tmp_path, {**asked, **SETTINGS, "positions": 2})
    assert answer(["river 7"] * 70).shape == (70, 2)
    with pytest.raises(ValueError, match="asked 3 tokens in row 65; expected at most 2"):
        answer([*["river 7"] * 65, "river 7 7"])
    for given in (["", ""], ["river 7", " "]):
        with pytest.raises(ValueError, match=r"in row \d; expected a text with tokens"):
            answer(given)


def test_rows_of_tokens_beyond_the_positions_are_named(tmp_path: Path) -> None:
    asked = {"kind": "columns", "names": {"input_ids": "int64"}}
    ragged = {"input_ids": {"padding": 0, "mask": None, "positions": 2}}
    answer = student(tmp_path, {**asked, "ragged": ragged})
    assert answer({"input_ids": [[1, 2], [3]]}).shape == (2, 2)
    with pytest.raises(ValueError, match="asked 3 tokens in row 1; expected at most 2"):
        answer({"input_ids": [[1, 2], [3, 4, 5]]})


def test_one_text_in_an_array_without_dimensions(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    """As MLflow's server makes it of `{"inputs": "river"}`."""
    texts.tokenizer(tmp_path)
    asked = {"kind": "texts", "names": ["input_ids"], "tokenizer": "tokenizer.json", "padding": 0, "max_length": None}
    answer = student(tmp_path, {**asked, **SETTINGS})
    for given in ("river", np.array("river"), {"text": ["river"]}, [{"text": np.array("river")}]):
        assert answer(given).shape == (1, 2)
        assert counted[-1]["input_ids"].tolist() == counted[0]["input_ids"].tolist()
    for wrong in (None, np.array(3), [[["river"]]]):
        with pytest.raises(ValueError, match="expected a text in each row"):
            answer(wrong)


def test_named_columns_get_their_types(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    asked = {"kind": "columns", "names": {"a": "float32", "b": "int64"}}
    student(tmp_path, asked)({"a": [[1.0, 2.0]], "b": [[3]], "unused": [0]})
    assert counted[0]["a"].dtype == np.float32 and counted[0]["b"].dtype == np.int64 and set(counted[0]) == {"a", "b"}


def test_named_columns_that_do_not_fit(tmp_path: Path) -> None:
    answer = student(tmp_path, {"kind": "columns", "names": {"a": "float32", "b": "int64"}})
    with pytest.raises(ValueError, match="no column 'b'; expected a, b"):
        answer({"a": [[1.0]]})
    with pytest.raises(ValueError, match="columns of different lengths"):
        answer({"a": [[1.0], [2.0]], "b": [[3]]})
    with pytest.raises(ValueError, match="asked 3 as column 'b'; expected a list"):
        answer({"a": [[1.0]], "b": 3})
    assert answer({"a": [], "b": []}).shape == (0, 2) == answer([]).shape


COLUMNS: list[dict[str, Any]] = [
    {"name": "age", "fill": 30.0, "flagged": True, "categories": [], "width": 1},
    {"name": "city", "fill": None, "flagged": False, "categories": ["", "Bern", "Rome"], "width": 1},
    {"name": "marks", "fill": 0.0, "flagged": False, "categories": [], "width": 2},
]
TABLE = {"kind": "array", "dtype": "float32", "shape": [7], "columns": COLUMNS}
PEOPLE = pandas.DataFrame({"age": [20.0, np.nan], "city": ["Rome", None], "marks": [[1.0, 2.0], [3.0, 4.0]]})
NUMBERS = [[20, 0, 0, 0, 1, 1, 2], [30, 1, 1, 0, 0, 3, 4]]


@pytest.mark.parametrize(
    "given",
    [
        PEOPLE,
        PEOPLE.assign(id=[1, 2])[["marks", "id", "city", "age"]],
        PEOPLE.assign(city=PEOPLE["city"].astype("category"), age=PEOPLE["age"].astype("Int64")),
        pyarrow.Table.from_pandas(PEOPLE[["city", "marks", "age"]]),
        PEOPLE.to_dict("records"),
        [
            {"age": np.array(20), "city": np.array("Rome"), "marks": np.array([1, 2])},
            {"age": np.array(None), "city": np.array(None), "marks": np.array([3, 4])},
        ],
        pyarrow.Table.from_pandas(PEOPLE.assign(marks=[[[1.0], [2.0]], [[3.0], [4.0]]])).to_pandas(),
        {"city": ["Rome", None], "marks": np.array([[1, 2], [3, 4]]), "age": [decimal.Decimal(20), None]},
        np.array(NUMBERS),
        pandas.DataFrame(NUMBERS),
    ],
    ids=[
        "frame",
        "another order",
        "types of pandas",
        "Arrow",
        "rows",
        "records behind MLflow",
        "nested arrays",
        "columns",
        "numbers",
        "a frame of numbers",
    ],
)
def test_a_table_by_the_names_of_its_columns(
    tmp_path: Path, given: Any, counted: list[dict[str, NDArray[Any]]]
) -> None:
    student(tmp_path, TABLE)(given)
    np.testing.assert_array_equal(counted[0]["input"], np.array(NUMBERS, np.float32))


@pytest.mark.parametrize("of_path", [str, Path, Path.as_uri])
def test_rows_of_a_parquet_file_are_answered(
    tmp_path: Path, of_path: Any, counted: list[dict[str, NDArray[Any]]]
) -> None:
    PEOPLE[["marks", "city", "age"]].to_parquet(tmp_path / "people.parquet")
    student(tmp_path, TABLE)(of_path(tmp_path / "people.parquet"))
    np.testing.assert_array_equal(counted[0]["input"], np.array(NUMBERS, np.float32))
    PEOPLE.to_csv(tmp_path / "people.csv")
    with pytest.raises(ValueError, match=r"people.csv' is no Parquet file"):
        student(tmp_path, TABLE)(of_path(tmp_path / "people.csv"))


def test_a_field_of_a_nested_column_has_a_name_with_a_dot(
    tmp_path: Path, counted: list[dict[str, NDArray[Any]]]
) -> None:
    rows = [{"marks": [1, 2], "at": {"home": {"age": 20}, "city": "Rome"}}, {"marks": [3, 4], "at": None}]
    names = ("at.home.age", "at.city", "marks")
    columns = [{**each, "name": name} for each, name in zip(COLUMNS, names, strict=True)]
    answer, table = student(tmp_path, {**TABLE, "columns": columns}), pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "people.parquet")
    for given in (rows, table, table.to_pandas(), table.to_pydict(), tmp_path / "people.parquet"):
        answer(given)
        np.testing.assert_array_equal(counted[-1]["input"], np.array(NUMBERS, np.float32))
    answer([rows[0], {"marks": [3, 4], "at": {}}])
    np.testing.assert_array_equal(counted[-1]["input"], np.array(NUMBERS, np.float32))
    with pytest.raises(ValueError, match=r"no column 'at\.home\.age'; expected at\.home\.age, at\.city, marks"):
        answer([{"marks": [1, 2], "at": {"city": "Rome"}}])


def test_a_parquet_file_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="needs the package pyarrow"):
        student(tmp_path, TABLE)(tmp_path / "people.parquet")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PEOPLE.drop(columns="city"), "no column 'city'; expected age, city, marks"),
        ([{"age": 1, "city": "Rome", "marks": [1, 2]}, {"age": 1, "city": "Rome"}], "no column 'marks'"),
        (PEOPLE.assign(city=[1, 2]), "column 'city' has 1; expected texts"),
        (PEOPLE.assign(age=["20", "x"]), "column 'age' has values of type"),
        (
            PEOPLE.assign(marks=[[1, 2, 3], [1, 2, 3]]),
            r"column 'marks' has rows of shape \[3\]; expected 2 numbers each",
        ),
        (PEOPLE.assign(marks=[[1, 2, 3], [1, 2]]), "column 'marks' has"),
        (PEOPLE[["age", "city", "marks", "age"]], "several columns 'age'"),
        ({"age": [1], "city": ["Rome"], "marks": []}, "columns of different lengths"),
        ({"age": 1, "city": "Rome", "marks": [1, 2]}, "asked 1 as column 'age'; expected a list"),
        (PEOPLE.assign(age=[20.0, np.inf]), "NaN or infinite numbers"),
    ],
)
def test_a_table_that_does_not_fit(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(tmp_path, TABLE)(given)


def test_bytes_of_images_are_refused_where_the_run_had_pixels_from_0_to_1(tmp_path: Path) -> None:
    inputs = {"kind": "array", "dtype": "float32", "shape": [2, 2]}
    answer = student(tmp_path, {**inputs, "byte_scale": 255})
    image = np.array([[0, 255], [1, 7]], np.uint8)
    for wrong in (image, image.tolist(), image.astype(np.float64), pandas.DataFrame(image.reshape(1, 4))):
        with pytest.raises(ValueError, match="whole numbers up to 255; expected pixels from 0 to 1"):
            answer(wrong)
    for given in (image / 255, image > 1, np.ones((2, 2), np.uint8)):
        assert answer(given).shape == (1, 2)
    assert student(tmp_path, inputs)(image).shape == (1, 2)


def test_a_table_without_empty_cells_and_with_ids(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    plain = {"fill": None, "flagged": False, "categories": [], "width": 1}
    columns = [{"name": "b", **plain}, {"name": "a", **plain}]
    answer = student(tmp_path, {"kind": "array", "dtype": "int64", "shape": [2], "columns": columns})
    answer({"a": [2**53 + 1], "b": [5]})
    assert counted[0]["input"].tolist() == [[5, 2**53 + 1]]
    with pytest.raises(ValueError, match="column 'a' has an empty cell in row 1"):
        answer({"a": [1, None], "b": [5, 6]})
    assert answer(pandas.DataFrame({"a": [], "b": []})).shape == (0, 2)
    assert answer([]).shape == (0, 2)


ROWS_OF_WORDS = [[7, 8, 9], [5], []]
RAGGED = {
    "kind": "columns",
    "names": {"words": "int64", "attention_mask": "int64", "size": "float32"},
    "ragged": {"words": {"padding": 4, "mask": "attention_mask"}},
}


@pytest.mark.parametrize(
    "of_rows", [list, lambda rows: pandas.Series(rows).to_numpy(), lambda rows: list(map(np.array, rows))]
)
def test_rows_of_different_lengths_are_padded(
    tmp_path: Path, of_rows: Any, counted: list[dict[str, NDArray[Any]]]
) -> None:
    answer = student(tmp_path, RAGGED)
    answer({"size": [1, 2, 3], "words": of_rows(ROWS_OF_WORDS)})
    assert counted[0]["words"].tolist() == [[7, 8, 9], [5, 4, 4], [4, 4, 4]]
    assert counted[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert counted[0]["words"].dtype == np.int64 == counted[0]["attention_mask"].dtype


def test_rows_that_are_padded_come_with_their_mask_or_are_real(
    tmp_path: Path, counted: list[dict[str, NDArray[Any]]]
) -> None:
    answer, words = student(tmp_path, RAGGED), np.array([[7, 8], [5, 0]])
    answer({"size": [1, 2], "words": words, "attention_mask": [[1, 1], [1, 0]]})
    answer({"size": [1, 2], "words": words})
    answer({"size": [1, 2], "words": [[7, 8], [5]], "attention_mask": [[1, 1], [1]]})
    expected = [[1, 1], [1, 0]]
    assert [batch["attention_mask"].tolist() for batch in counted] == [expected, [[1, 1], [1, 1]], expected]
    with pytest.raises(ValueError, match="column 'words' has"):
        answer({"size": [1, 2], "words": [3, 4]})
    with pytest.raises(ValueError, match="no column 'words'"):
        answer({"size": [1, 2]})
    with pytest.raises(ValueError, match="expected a table of words"):
        answer([[1, 2]])


def test_columns_are_computed_in_batches(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    assert student(tmp_path, RAGGED)({"size": [1] * 150, "words": [[1, 2]] * 150}).shape == (150, 2)
    assert [len(batch["words"]) for batch in counted] == [64, 64, 22]


def test_answers_of_elements_are_0_for_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits(batch: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        assert set(batch) == {"words", "attention_mask", "size"}
        return np.stack([batch["words"], -batch["words"]], axis=-1).astype(np.float32)

    monkeypatch.setitem(load.LOADERS, "counted", lambda *_: logits)
    answer = student(tmp_path, {**RAGGED, "elements_of": "words"})
    rows = [[0, 0]] * 70 + [[0], [0, 0, 0]]  # more than a batch, the longest in the second
    for given in (answer({"size": [1] * 72, "words": rows}), answer({"size": [1] * 72, "words": rows[::-1]})[::-1]):
        assert given.shape == (72, 3, 2)
        np.testing.assert_array_equal(given.sum(axis=2), [[k < len(row) for k in range(3)] for row in rows])
    words, mask = np.zeros((1, 3)), [[1, 0, 0]]
    np.testing.assert_array_equal(
        answer({"size": [1], "words": words, "attention_mask": mask})[..., 0], [[0.5, 0.0, 0.0]]
    )
    assert answer({"size": [], "words": []}).shape == (0, 0, 2)


def test_texts_of_a_table_are_taken_by_their_names(tmp_path: Path, counted: list[dict[str, NDArray[Any]]]) -> None:
    texts.tokenizer(tmp_path)
    asked = {"kind": "texts", "names": ["input_ids", "token_type_ids"], "tokenizer": "tokenizer.json", "padding": 0}
    answer = student(
        tmp_path, {**asked, **SETTINGS, "texts": 2, "max_length": None, "columns": ["question", "passage"]}
    )
    table = pandas.DataFrame({"passage": ["goal"], "id": [1], "question": ["river"]})
    for given in (table, table.to_dict("records"), [("river", "goal")]):
        answer(given)
        assert counted[-1]["input_ids"].tolist() == counted[0]["input_ids"].tolist()
    with pytest.raises(ValueError, match="no column 'question'; expected question, passage"):
        answer(table[["passage"]])


TIED = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("shown", self.first.weight.detach()[:1])

    def forward(self, input):
        return self.second(self.first(input)) + self.shown.sum()
"""


def test_tied_weights_are_loaded_and_stay_tied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/tied.py").write_text(TIED)
    exec(TIED, scope := dict[str, Any]())
    module = scope["Net"]()
    checkpoints.save(module.state_dict(), str(tmp_path / "model.safetensors"))
    about = {"format": "torch", "weights": "model.safetensors", "code": "code", "factory": "tied:Net", "kwargs": {}}
    inputs = {"kind": "array", "dtype": "float32", "shape": [2]}
    (tmp_path / "export.json").write_text(json.dumps({**ABOUT, **about, "inputs": inputs}))
    made: list[Any] = []
    of_module = load._of_module
    monkeypatch.setattr(load, "_of_module", lambda found, *more: made.append(found) or of_module(found, *more))
    x = torch.randn(3, 2)
    np.testing.assert_allclose(load.load(tmp_path)(x.numpy()), module(x).softmax(-1).detach(), atol=1e-6)
    assert made[0].second.weight is made[0].first.weight
    assert made[0].shown.data_ptr() == made[0].first.weight.data_ptr()


def test_a_column_may_be_called_as_the_input_of_an_array(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    code = "import torch\nclass Net(torch.nn.Linear):\n    def forward(self, input, other):\n"
    (tmp_path / "code/two.py").write_text(code + "        return super().forward(input) * other\n")
    save_file({"weight": torch.eye(2), "bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    about = {"format": "torch", "weights": "model.safetensors", "code": "code", "factory": "two:Net"}
    inputs = {"kind": "columns", "names": {"input": "float32", "other": "float32"}}
    kwargs = {"in_features": 2, "out_features": 2}
    (tmp_path / "export.json").write_text(json.dumps({**ABOUT, **about, "kwargs": kwargs, "inputs": inputs}))
    given = {"other": [[2.0, 2.0]], "input": [[1.0, 0.0]]}
    np.testing.assert_allclose(load.load(tmp_path)(given), [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))]], rtol=1e-5)


@pytest.mark.parametrize("label2id", [{}, {"LABEL_0": 0, "LABEL_1": 1}, {"b": 0, "a": 1}])
def test_classes_of_transformers_are_ordered_by_id2label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label2id: dict[str, int]
) -> None:
    class Net(torch.nn.Module):
        config = SimpleNamespace(id2label={0: "b", 1: "a"}, label2id=label2id)

        def forward(self, words: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": words.float()}

    of_folder = SimpleNamespace(from_pretrained=lambda *_, **__: Net())
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoModel=of_folder))
    about = {"format": "transformers", "auto_class": "AutoModel"}
    answers = student(tmp_path, {"kind": "columns", "names": {"words": "int64"}}, **about)({"words": [[5, 0]]})
    assert answers[0, 1] > 0.9, "the first logit is that of b"


def test_ids_that_pad_a_vocabulary_get_no_probability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(torch.nn.Module):
        config = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})

        def forward(self, words: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": words.float()}

    of_folder = SimpleNamespace(from_pretrained=lambda *_, **__: Net())
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoModel=of_folder))
    about = {"format": "transformers", "auto_class": "AutoModel"}
    answers = student(tmp_path, {"kind": "columns", "names": {"words": "int64"}}, **about)({"words": [[5, 0, 9]]})
    assert answers.shape == (1, 2) and answers[0, 0] > 0.9


def test_threads_are_set_for_a_call_alone() -> None:
    seen: list[int] = []

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load._of_module(Net(), {"inputs": {"kind": "array"}}, 1)({"input": np.zeros((1, 2), np.float32)})
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_it_is_loaded_by_a_loader_that_does_not_register_it(tmp_path: Path) -> None:
    """As MLflow's loads it."""
    spec = importlib.util.spec_from_file_location("load_of_an_export", inspect.getfile(load))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert spec.name not in sys.modules and callable(module.load)


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


@pytest.mark.parametrize("module", [load, check_export])
def test_it_imports_nothing_of_stillhouse(module: Any) -> None:
    imported = re.findall(r"^\s*(?:from|import) (\w+)", inspect.getsource(module), re.MULTILINE)
    assert imported and not {"orchestrator", "workers", "stillhouse"} & set(imported)
