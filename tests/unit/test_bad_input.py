"""A catalogue of wrong requests: each is refused with status 2, in words that name it, and leaves nothing behind."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator.cli.command import main
from tests.makers import MODELS, blobs, message, write_config

X, Y = blobs(600, 1)
Prepare = Callable[[Path], object]

PARQUET: dict[str, Any] = {
    "data": {"kind": "parquet", "train": "train.parquet", "validation": "train.parquet", "test": "train.parquet"}
}
IDX: dict[str, Any] = {
    "data": {"kind": "idx", "train": {"images": "i", "labels": "l"}, "test": {"images": "i", "labels": "l"}}
}
LOADED: dict[str, Any] = {
    "ensemble__training": None,
    "ensemble__size": None,
    "ensemble__checkpoints": ["a.safetensors"],
}


def changed(row: int, value: object, of: np.ndarray = Y) -> np.ndarray:
    found = of.copy()
    found[row] = value
    return found


def npz(name: str = "train.npz", **arrays: Any) -> Prepare:
    return lambda folder: np.savez(folder / name, **arrays)


def parquet(**columns: Any) -> Prepare:
    return lambda folder: pq.write_table(pa.table(columns), folder / "train.parquet")


def huge(folder: Path) -> None:
    """530 bytes that announce 10^10 numbers."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**10,)})
    with zipfile.ZipFile(folder / "train.npz", "w") as archive:
        archive.writestr("x.npy", head.getvalue())
        archive.writestr("y.npy", head.getvalue())


def raw(name: str, content: bytes) -> Prepare:
    return lambda folder: (folder / name).write_bytes(content)


def text(content: str) -> Prepare:
    return raw("config.yaml", content.encode())


def models(content: str) -> Prepare:
    return raw("models.py", content.encode())


def further(keys: dict[str, Any], model: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"evaluation": {"systems": {"other": {"model": model or {"factory": "models:mlp"}, **keys}}}}


def objective(*names: str) -> dict[str, Any]:
    return {"distillation": {"objective": [{"term": name} for name in names]}}


def training(**keys: object) -> dict[str, Any]:
    return {f"student__training__{key}": value for key, value in keys.items()}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

NAN = """
from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        return super().forward(x) * float("nan")

def mlp(**kwargs):
    return Net(8, 3)
"""

CATALOGUE: dict[str, tuple[dict[str, Any], Prepare | None, str]] = {
    # --- the file
    "not YAML": ({}, text("name: ["), r"config\.yaml', line 1, column 8: not YAML .* Expected YAML"),
    "a tab": ({}, text("a:\n\t- b"), "line 2, column 1: not YAML"),
    "a list": ({}, text("- a\n- b\n"), "found a list; expected keys with values"),
    "empty": ({}, text(""), "found nothing; expected keys"),
    "a number": ({}, text("42"), "found a single value; expected keys"),
    "code in YAML": ({}, text("name: !!python/object/apply:os.system ['true']\n"), "could not determine a constructor"),
    "a bomb": ({}, text(BOMB), "its anchors expand to more than 100,000 values"),
    "itself": ({}, text("a: &a\n  b: *a\n"), r"refers to itself .*\. Remove the alias"),
    "UTF-16": ({}, raw("config.yaml", "name: x".encode("utf-16")), "cannot be read as text"),
    "bytes": ({}, raw("config.yaml", bytes(range(256))), "cannot be read as text"),
    "much too large": ({}, raw("config.yaml", b"#" * (2**20 + 1)), "larger than 1,048,576 bytes"),
    # --- keys and values
    "name with a path": ({"name": "../../etc"}, None, r"name: found '../../etc'; expected lower-case letters, digits"),
    "name in capitals": ({"name": "Digits"}, None, "name: found 'Digits'; expected lower-case letters, digits"),
    "empty name": ({"name": ""}, None, "name: found ''; expected"),
    "long name": ({"name": "a" * 101}, None, "it to have at most 100 characters"),
    "no name": ({"name": None}, None, "name: missing; it is required"),
    "name a number": ({"name": 7}, None, "name: found 7; expected a valid string"),
    "negative seed": ({"seed": -1}, None, "seed: found -1; expected greater than or equal to 0"),
    "huge seed": ({"seed": 2**64}, None, f"seed: found {2**64}; expected less than {2**63}"),
    "seed in words": ({"seed": "one"}, None, "seed: found 'one'; expected an integer"),
    "no data": ({"data": None}, None, "data: missing"),
    "unknown kind of data": ({"data__kind": "csv"}, None, "data.kind: found 'csv'; expected 'npz', 'parquet'"),
    "no training data": ({"data__train": None}, None, "kind 'npz' needs `train`"),
    "no test data": ({"data__test": None}, None, "kind 'npz' needs `test`"),
    "two validations": ({"data__validation_share": 0.1}, None, "`validation` or `validation_share`, not both"),
    "all for validation": ({"data__validation": None, "data__validation_share": 1.0}, None, "found 1.0; expected less"),
    "NaN for a share": ({"data__validation": None, "data__validation_share": float("nan")}, None, "a finite number"),
    "no member": ({"ensemble__size": 0}, None, "ensemble.size: found 0; expected greater than or equal to 1 or 'auto'"),
    "size in words": ({"ensemble__size": "ten"}, None, "ensemble.size: found 'ten'"),
    "half a member": ({"ensemble__size": 2.5}, None, "ensemble.size: found 2.5"),
    "members from nowhere": ({"ensemble__training": None}, None, "give `training` .* or `checkpoints`"),
    "members from two places": ({"ensemble__checkpoints": ["a"]}, None, "give `training` .* or `checkpoints`"),
    "rule": ({"ensemble__combine": "mean"}, None, "ensemble.combine: found 'mean'; expected 'arithmetic'"),
    "too few weights": ({"ensemble__weights": [1, 2]}, None, "2 numbers for 3 members"),
    "weights of 0": ({"ensemble__weights": [0, 0, 0]}, None, "all 0"),
    "negative weight": ({"ensemble__weights": [1, 1, -1]}, None, r"ensemble.weights.2: found -1"),
    "infinite weight": ({"ensemble__weights": [1, 1, float("inf")]}, None, "ensemble.weights.2: found inf"),
    "policy": ({"ensemble__on_member_loss": "ignore"}, None, "found 'ignore'; expected 'wait', 'reweight' or 'fail'"),
    "precision": ({"ensemble__precision": "int8"}, None, "ensemble.precision: found 'int8'"),
    "no actor": ({"ensemble__num_actors": 0}, None, "ensemble.num_actors: found 0"),
    "negative GPUs": ({"ensemble__resources_per_member": {"num_gpus": -1}}, None, "num_gpus: found -1"),
    "one and a half GPUs": (
        {"ensemble__resources_per_member": {"num_gpus": 1.5}},
        None,
        r"num_gpus: found 1\.5; expected a share of one GPU, or a whole number",
    ),
    "no core": ({"ensemble__resources_per_member": {"num_cpus": 0}}, None, "num_cpus: found 0; expected greater than"),
    "cold": (
        {"distillation__temperature": 0},
        None,
        "distillation.temperature: found 0; expected greater than or equal to 0.001",
    ),
    "frozen": ({"distillation__temperature": 1e-300}, None, "expected greater than or equal to 0.001"),
    "colder": ({"distillation__temperature": -2}, None, "distillation.temperature: found -2"),
    "infinitely hot": ({"distillation__temperature": float("inf")}, None, "found inf; expected a finite number"),
    "nothing to learn": (
        {"distillation__soft_weight": 0, "distillation__hard_weight": 0},
        None,
        "are both 0, so there is nothing to learn from",
    ),
    "an unknown term": (
        objective("sofft"),
        None,
        "expected soft, reverse_kl, .*, hidden_mse, relations, .*, relational_angle, or",
    ),
    "an unknown schedule": (
        {"distillation__soft_weight": {"from": 1, "to": 0, "schedule": "exp"}},
        None,
        "found 'exp'; expected constant, linear, cosine, step, or `module:Class`",
    ),
    "hidden states of members that have none": (
        objective("models:Hidden"),
        models(
            MODELS + "\nclass Hidden:\n    needs = {'hidden_states'}\n    def __call__(self, outputs, batch): ...\n"
        ),
        "hidden.member: 'models:.*': Sequential returns no hidden states, which a term of the objective needs",
    ),
    "logits of top-k targets": (
        {**objective("logits_mse"), "distillation__top_k": 2},
        None,
        "'logits_mse' needs logits; .*leave it out, or the term",
    ),
    "a term twice": (objective("soft", "soft"), None, "the term 'soft' twice with the same settings"),
    "no term": (objective(), None, "`objective` is empty"),
    "terms without weight": (
        {"distillation": {"objective": [{"term": "soft", "weight": 0}]}},
        None,
        "all weights are 0, so there is nothing to learn from",
    ),
    "both forms": (
        {"distillation__objective": [{"term": "soft"}]},
        None,
        "`objective` and `soft_weight` are both given",
    ),
    "a schedule of T for the top": (
        {"distillation__temperature": {"from": 4, "to": 1}, "distillation__top_k": 2},
        None,
        "`top_k` is 2 and `temperature` a schedule: the largest probabilities at one T say nothing",
    ),
    "a schedule of T on its way": (
        {"distillation__temperature": {"from": 4, "to": 1}, "distillation__stream": True},
        None,
        "`stream` is true and `temperature` a schedule",
    ),
    "a schedule to nowhere": ({"distillation__temperature": {"from": 4}}, None, "temperature: `to` is missing"),
    "a schedule below 0": (
        {"distillation__hard_weight": {"from": 1, "to": -1}},
        None,
        "distillation.hard_weight: `to` is -1; expected a number of at least 0",
    ),
    "a key of no schedule": (
        {"distillation__hard_weight": {"from": 1, "too": 0}},
        None,
        "distillation.hard_weight.too: unknown key; did you mean 'to'",
    ),
    "none of the top": ({"distillation__top_k": 0}, None, "distillation.top_k: found 0"),
    "more than all": ({"distillation__top_k": 9}, None, "distillation.top_k: 9 of 3 classes"),
    "half a byte": ({"distillation__dtype": "float4"}, None, "distillation.dtype: found 'float4'"),
    "no learning rate": (training(learning_rate=0), None, "student.training.learning_rate: found 0"),
    "learning rate in words": (training(learning_rate="1e-3x"), None, "found '1e-3x'; expected a number"),
    "no epoch": (training(epochs=0), None, "student.training.epochs: found 0"),
    "no batch": (training(batch_size=0), None, "student.training.batch_size: found 0"),
    "optimizer": (training(optimizer="lion"), None, "found 'lion'; expected 'adam' or 'sgd'"),
    "more than most workers": ({"student__num_workers": [2, 1]}, None, r"\[2, 1\]; expected \[min, max\]"),
    "three numbers of workers": ({"student__num_workers": [1, 2, 3]}, None, "student.num_workers: found"),
    "keyword arguments in a list": ({"student__model__kwargs": [1]}, None, "student.model.kwargs: found"),
    "no student": ({"student__model": None}, None, "student.model: missing"),
    "tracking in a list": ({"tracking": ["x"]}, None, r"tracking: found \['x'\]"),
    "no view": ({"data__augment": {"factory": "models:mlp", "views": 0}}, None, "data.augment.views: found 0"),
    # --- code
    "factory without a colon": (
        {"student__model__factory": "models.mlp"},
        None,
        "found 'models.mlp'; expected `module:function`",
    ),
    "factory in another folder": (
        {"student__model__factory": "../x:mlp"},
        None,
        "found '../x:mlp'; expected `module:function`",
    ),
    "factory at a URI": (
        {"student__model__factory": "http://x/y:mlp"},
        None,
        "found 'http://x/y:mlp'; expected `module:function`",
    ),
    "kind of model": (
        {"student__model__kind": "caffe"},
        None,
        "student.model: unknown kind 'caffe'; expected python, transformers, onnx, sklearn, or a class of your own as "
        "`module:Class`",
    ),
    "syntax": ({}, models("def mlp(:\n"), r"cannot be imported \(SyntaxError"),
    "a script": ({}, models("import sys; sys.exit(3)\n"), r"cannot be imported \(SystemExit: 3\)"),
    "a factory that exits": ({}, models("def mlp(**k): raise SystemExit(3)\n"), "raised SystemExit: 3"),
    "NaN at once": ({}, models(NAN), r"on two examples\. Expected finite logits: guard"),
    "no transform": ({"data__augment": {"factory": "models:shaken"}}, None, "has no function or class 'shaken'"),
    "no lexicon": (
        {
            "data__augment": {
                "factory": "workers.data.text_augment:words_and_stretches",
                "kwargs": {"lexicon": "words.tsv"},
            }
        },
        None,
        "data.augment.kwargs.lexicon: '.*words.tsv': no such file",
    ),
    # --- data
    "npz without x": ({}, npz(a=X, y=Y), "no array 'x'; found a, y"),
    "npz without y": ({}, npz(x=X), "no array 'y'; found x"),
    "fewer labels": ({}, npz(x=X, y=Y[:-1]), "600 examples and y has 599 labels"),
    "no examples": ({}, npz(x=X[:0], y=Y[:0]), "data.train: no examples"),
    "half a class": ({}, npz(x=X, y=Y + 0.5), r"y holds \d\.5 at example 0; expected integer class ids\. Round"),
    "label below": ({}, npz(x=X, y=changed(5, -2)), "label -2 of example 5 is outside the 3 classes"),
    "no label at all": ({}, npz(x=X, y=Y * 0 - 1), "no example has a label"),
    "one class": ({}, npz(x=X, y=Y * 0), "every label is 0"),
    "objects": ({}, npz(x=np.array([{}] * 3, object), y=Y[:3]), r"arrays of objects \(pickles\) are not read"),
    "two columns of labels": ({}, npz(x=X, y=np.stack([Y, Y], 1)), r"y is int64 of shape \[600, 2\]"),
    "words": ({}, npz(x=X.astype(str), y=Y), "x is of type <U32; expected numbers"),
    "infinity": ({}, npz(x=changed(7, np.inf, X), y=Y), "x of example 7 holds NaN or infinity"),
    "a scalar": ({}, npz(x=np.float32(3), y=Y), "x has no examples"),
    "test of another shape": ({}, npz("test.npz", x=X[:, :7], y=Y), r"data.test: examples of shape \[7\]"),
    "a class that only the test has": ({}, npz("test.npz", x=X, y=changed(2, 3)), "data.test: label 3 of example 2"),
    "fewer classes than labels": ({"data__classes": 2}, None, r"outside the 2 classes 0 to 1 \(`data.classes`\)"),
    "not an archive": ({}, raw("train.npz", b"hello"), "not a numpy archive"),
    "no bytes": ({}, raw("train.npz", b""), "not a numpy archive"),
    "cut in the middle": (
        {},
        lambda folder: raw("train.npz", (folder / "train.npz").read_bytes()[:5000])(folder),
        "not a numpy archive",
    ),
    "no column": (PARQUET, parquet(a=[1, 2, 3]), "no label column 'y'; found a"),
    "a null": (PARQUET, parquet(x=[[1.0], None, [2.0]], y=[0, 1, 0]), "lists of different lengths or none"),
    "ragged": (PARQUET, parquet(x=[[1.0], [1.0, 2.0]], y=[0, 1]), "lists of different lengths or none"),
    "not Parquet": (PARQUET, raw("train.parquet", b"PAR1junkPAR1"), "not a Parquet file"),
    "a header that lies": (IDX, raw("i", b"\0\0\x08\x03" + b"\xff" * 12), "its header says .* bytes; found 0"),
    "not safetensors": (LOADED, raw("a.safetensors", b"junkjunkjunk"), "is not a safetensors file"),
    "a header without end": (LOADED, raw("a.safetensors", b"\xff" * 7 + b"\x7f{}"), "is not a safetensors file"),
    "a further system without weights": (further({}), None, "`model` has no weights; give `checkpoint`"),
    "a further system of a name that is taken": (
        {"evaluation": {"systems": {"student": {"model": {"factory": "models:mlp"}, "checkpoint": "a.pt"}}}},
        None,
        "'student', which a system",
    ),
    "a further system with two weights": (
        further({"checkpoint": "a.pt"}, {"kind": "onnx", "path": "a.onnx"}),
        None,
        "leave `checkpoint` out",
    ),
    "a further system that is not there": (further({"checkpoint": "a.pt"}), None, "a.pt': no such file"),
    "a further system that does not fit": (
        further({"checkpoint": "a.pt"}),
        lambda folder: torch.save({"a": torch.ones(2)}, folder / "a.pt"),
        "a.pt",
    ),
    "a folder for a checkpoint": (LOADED, lambda folder: (folder / "a.safetensors").mkdir(), "cannot be read"),
    "labels of an SVM": ({}, npz(x=X, y=2 * (Y > 0) - 1), r"data\.train: the labels are -1 and \+1"),
    "labels from one": ({}, npz(x=X, y=Y + 1), "Do labels start at 1"),
    "another type of number": ({}, npz("test.npz", x=X.astype(np.int32), y=Y), r"data\.test: x is int32 .*float32"),
    "bytes beside floats": (
        {},
        npz(x=(99 * abs(X)).astype(np.uint8), y=Y),
        r"data\.validation: x is float32 with values from .*, and x of data\.train uint8 with values from",
    ),
    "test of train": ({}, npz("test.npz", x=X, y=Y), r"data\.train and data\.test are the same examples"),
    "a header that asks for 37 GiB": ({}, huge, r"header of 'x' says float32 \[10000000000\], .*; found 0"),
    "columns of another order and name": (
        {"data": {"kind": "parquet", "train": "train.parquet", "test": "test.parquet"}},
        lambda folder: [
            pq.write_table(pa.table({name: X[:, 0], "y": Y}), folder / f"{split}.parquet")
            for split, name in (("train", "age"), ("test", "Age"))
        ],
        r"test\.parquet': data\.test has no column age, which train has and the column Age",
    ),
    "a sparse matrix": (
        {"data": {"kind": "python", "factory": "models:splits"}},
        models(
            "import scipy.sparse as s\n\ndef splits():\n    x = s.random(9, 8, format='csr')\n"
            "    return {'train': (x, [0] * 9), 'test': (x, [0] * 9)}\n"
        ),
        r"split 'train': x is csr_matrix, a sparse matrix; .*x\.toarray\(\)",
    ),
    # --- places
    "storage in a file": ({"storage": __file__ + "/runs"}, None, "cannot be written .*Not a directory"),
    "storage without a protocol": ({"storage": "xyz://runs"}, None, "no file system for this URI"),
}


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("case", CATALOGUE)
def test_it_is_refused_and_leaves_nothing(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, prepare, words = CATALOGUE[case]
    path = write_config(tmp_path, **changes)
    if prepare is not None:
        prepare(tmp_path)
    before = everything(tmp_path)
    assert main(["run", str(path)]) == 2
    said = message(capsys.readouterr().err)
    assert said.startswith("stillhouse: ") and "Traceback" not in said
    assert re.search(words, said), said
    assert everything(tmp_path) == before
