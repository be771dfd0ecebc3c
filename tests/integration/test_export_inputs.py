"""`stillhouse export` of students whose inputs, outputs or weights are not those of a plain network."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.cli.command import main
from tests import finished, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter

TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight
        self.register_buffer("shown", self.first.weight.detach()[:3])

    def forward(self, x):
        states = self.second(torch.relu(self.first(x)))
        return self.output(states) + states @ self.shown.T
"""
NAMED = """
import numpy as np
import torch
from torch import nn

NAMES = ["input", "logits", "linear", "class", "größe"]

def splits():
    found = {}
    for split, count, seed in (("train", 300, 1), ("validation", 60, 2), ("test", 120, 3)):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, count)
        x = {name: (rng.normal(size=(count, 3)) + np.eye(3)[y]).astype(np.float32) for name in NAMES}
        x["words"] = [rng.integers(1, 9, 1 + k % 7) for k in range(count)]
        found[split] = (x, y)
    return found

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.words = nn.Linear(3, 3), nn.Embedding(9, 3)

    def forward(self, words, attention_mask, **columns):
        mean = (self.words(words) * attention_mask.unsqueeze(-1)).sum(1) / attention_mask.sum(1, keepdim=True)
        return mean + sum((k + 1) * self.linear(columns[name]) for k, name in enumerate(NAMES))
"""
TAGGED = """
import numpy as np
import torch
from torch import nn

def splits():
    found = {}
    for split, count, seed in (("train", 300, 1), ("validation", 60, 2), ("test", 120, 3)):
        rng = np.random.default_rng(seed)
        rows = [rng.integers(5, 60, rng.integers(1, 12)) for _ in range(count)]
        found[split] = ({"input_ids": rows}, [row % 3 for row in rows])
    return found

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.output = nn.Embedding(64, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        states = self.words(input_ids) * attention_mask.unsqueeze(-1)
        return self.output(states + states.sum(1, keepdim=True) / attention_mask.sum(1, keepdim=True).unsqueeze(-1))
"""
PYTHON = {"kind": "python"}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TAGGING = {"kind": "transformers", "task": "token-classification", "config": texts.config(**STILL)}


def own(name: str, code: str, model: str, data: str | None) -> Callable[[Path], str]:
    """Makes a run of code of one's own."""
    splits = {"factory": f"{name}:{data}", **PYTHON}
    return lambda folder: (
        finished.of_numbers(folder, f"{name}:{model}", code={f"{name}.py": code})
        if data is None
        else finished.of_data(folder, splits, {"factory": f"{name}:{model}"}, {f"{name}.py": code})
    )


class Runs:
    """Finished runs by what is special about their students, each made when a test asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, dict[str, str]()

    def __getitem__(self, name: str) -> str:
        if name not in self.known:
            self.known[name] = MADE[name](self.folder / name)
        return self.known[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def masked(folder: Path) -> str:
    """A run of a masked language model, whose head is tied to its embeddings."""
    folder.mkdir()
    for name, count, first in (("train", 200, 0), ("validation", 40, 500), ("test", 60, 700)):
        texts.write_jsonl(folder / f"{name}.jsonl", [{"text": row["text"]} for row in texts.rows(count, first)])
    tokenizer = texts.tokenizer(folder / "tokenizer")
    vocabulary = len(json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]["vocab"])
    data = {"kind": "text", **{name: f"{name}.jsonl" for name in ("train", "validation", "test")}}
    config = texts.config(vocab_size=vocabulary, **STILL)
    model = {"kind": "transformers", "task": "masked-lm", "tokenizer": tokenizer, "config": config}
    return finished.of_data(folder, {**data, "masking": {"tokenizer": tokenizer}}, model)


def people(count: int, seed: int) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    age, city = rng.integers(18, 80, count).astype(float), rng.choice(["Bern", "Rome", "Oslo"], count)
    age[::9] = np.nan
    lists = [rng.normal(size=2).tolist() for _ in range(count)]
    bought = np.where((city == "Rome") ^ (rng.random(count) < 0.1), "yes", "no")
    return pandas.DataFrame(
        {"age": age, "city": city, "marks": lists, "weight": rng.normal(size=count), "bought": bought}
    )


def table(folder: Path) -> str:
    """A run on a table with numbers, categories, lists and empty cells."""
    folder.mkdir()
    for name, count, seed in (("train", 300, 1), ("validation", 60, 2), ("test", 120, 3)):
        people(count, seed).to_parquet(folder / f"{name}.parquet")
    data = {"kind": "table", "label_column": "bought"}
    data |= {name: f"{name}.parquet" for name in ("train", "validation", "test")}
    code = "import torch\ndef net():\n    return torch.nn.Linear(8, 2)\n"
    return finished.of_data(folder, data, {"factory": "line:net"}, {"line.py": code})


def pairs(folder: Path) -> str:
    """A run on pairs of texts."""
    folder.mkdir()
    for name, count, first in (("train", 200, 0), ("validation", 40, 500), ("test", 60, 700)):
        rows = texts.rows(count, first)
        for row in rows:
            row["question"], row["passage"] = row.pop("text"), "the match"
        texts.write_jsonl(folder / f"{name}.jsonl", rows)
    texts.checkpoint(folder / "encoder")
    data = {"kind": "text", "text_column": ["question", "passage"]}
    data |= {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    model = {"kind": "transformers", "config": texts.config(**STILL), "tokenizer": "encoder", "max_length": 16}
    return finished.of_data(folder, data, model)


MADE: dict[str, Callable[[Path], str]] = {
    "tied": own("tied", TIED, "Tied", None),
    "named": own("named", NAMED, "Net", "splits"),
    "tagged": own("tagged", TAGGED, "Tagger", "splits"),
    "tagged bert": lambda folder: finished.of_data(
        folder, {"factory": "tagged:splits", **PYTHON}, TAGGING, {"tagged.py": TAGGED}
    ),
    "masked bert": masked,
    "table": table,
    "pairs": pairs,
}


def exported(run: str, to: Path, name: str, *more: str) -> tuple[Any, dict[str, Any]]:
    """The student as the export's own `load.py` loads it, and `export.json`."""
    assert main(["export", run, "--to", str(to), "--format", name, *more]) == 0
    spec = importlib.util.spec_from_file_location("load_of_export", to / "load.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(to), json.loads((to / "export.json").read_text())


@pytest.mark.parametrize("name", ["onnx", "torch"])
@pytest.mark.parametrize("student", ["tied", "named", "tagged"])
def test_networks_of_ones_own(runs: Runs, tmp_path: Path, student: str, name: str) -> None:
    _, about = exported(runs[student], tmp_path / "out", name)
    assert about["measured"]["agreement"]["difference"] < 1e-4


@pytest.mark.parametrize("name", ["onnx", "transformers"])
@pytest.mark.parametrize("student", ["tagged bert", "masked bert", "pairs"])
def test_networks_of_transformers(runs: Runs, tmp_path: Path, student: str, name: str) -> None:
    _, about = exported(runs[student], tmp_path / "out", name)
    assert about["measured"]["agreement"]["difference"] < 1e-4
    assert about["inputs"]["kind"] == ("texts" if student == "pairs" else "columns")


@pytest.mark.parametrize("student", ["tied", "named", "tagged bert"])
def test_a_student_in_int8_answers_nearly_the_same(runs: Runs, tmp_path: Path, student: str) -> None:
    _, about = exported(runs[student], tmp_path / "out", "onnx", "--quantize", "int8")
    assert about["measured"]["agreement"]["difference"] < 0.1


def test_each_element_has_an_answer_and_padding_has_none(runs: Runs, tmp_path: Path) -> None:
    student, about = exported(runs["tagged bert"], tmp_path / "out", "onnx")
    rows = [[7, 9, 11], [8], list(range(5, 13))]
    answers = student({"input_ids": rows})
    assert answers.shape == (3, 8, 3)
    np.testing.assert_allclose(answers.sum(axis=-1), [[k < len(row) for k in range(8)] for row in rows], atol=1e-5)
    for row, found in zip(rows, answers, strict=True):  # padding changes nothing
        np.testing.assert_allclose(student({"input_ids": [row]})[0], found[: len(row)], atol=1e-5)
    ids, mask = np.zeros((3, 8), int), np.zeros((3, 8), int)
    for k, row in enumerate(rows):
        ids[k, : len(row)], mask[k, : len(row)] = row, 1
    np.testing.assert_allclose(student({"input_ids": ids, "attention_mask": mask}), answers, atol=1e-6)
    assert student({"input_ids": []}).shape == (0, 0, 3)
    assert student({"input_ids": rows * 50}).shape == (150, 8, 3)
    assert about["measured"]["examples"] > 300, "elements, of 120 examples"


def test_inputs_of_the_graph_are_documented(runs: Runs, tmp_path: Path) -> None:
    import onnxruntime

    student, about = exported(runs["named"], tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    names = about["inputs"]["graph"]
    assert [each.name for each in session.get_inputs()] == list(names.values())
    assert names["input"] == "input" and names["logits"] == "column_0" and names["größe"] == "column_1"
    assert all(name.isascii() and name.isidentifier() for name in names.values())
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=(2, 3)) for name in names if name not in ("words", "attention_mask")}
    given["words"] = [[1], [2, 3]]
    expected = student(given)
    assert expected.shape == (2, 3)
    np.testing.assert_array_equal(student({name: given[name] for name in reversed(given)}), expected)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_table_by_the_names_of_its_columns(runs: Runs, tmp_path: Path, name: str) -> None:
    student, about = exported(runs["table"], tmp_path / "out", name)
    frame = people(120, 3)
    accuracy = (student(frame).argmax(axis=1) == (frame["bought"] == "yes")).mean()
    assert accuracy == pytest.approx(about["measured"]["figures"]["accuracy"], abs=1e-9)
    other = frame[["weight", "bought", "marks", "city", "age"]]
    arrow = pa.Table.from_pandas(other)
    pq.write_table(arrow, tmp_path / "new.parquet")
    for given in (other, arrow, tmp_path / "new.parquet", other.to_dict("list"), other.to_dict("records")):
        np.testing.assert_array_equal(student(given), student(frame))
    with pytest.raises(ValueError, match="no column 'city'; expected age, city, marks, weight"):
        student(frame.drop(columns="city"))
    assert student(frame[:0]).shape == (0, 2) and student(frame[:1]).shape == (1, 2)


def test_pairs_of_texts_by_the_names_of_their_columns(runs: Runs, tmp_path: Path) -> None:
    student, _ = exported(runs["pairs"], tmp_path / "out", "onnx")
    frame = pandas.DataFrame({"id": [1, 2], "passage": ["the match", "a river"], "question": ["the goal", "science"]})
    expected = student([("the goal", "the match"), ("science", "a river")])
    np.testing.assert_array_equal(student(frame), expected)
    with pytest.raises(ValueError, match="no column 'question'"):
        student(frame[["passage"]])
