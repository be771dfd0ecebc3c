"""What keys of artifacts have of models and trainings: settings that came later are in them once they are set."""

from __future__ import annotations

from typing import Any

import pytest

from workers.specs.models import ModelSpec, OnnxModel, OwnModel, SklearnFile, SklearnModel, SpecialClasses
from workers.specs.models import TransformersModel as Transformers
from workers.specs.training import FitSpec, TrainingSpec

PLACES: dict[str, Any] = {"folder": "models", "depends_on": ("words.txt",)}
COLUMNS: dict[str, Any] = {"inputs": ("x",), "tokenizer": "words", "max_length": 8}
OWN, SPECIAL = ModelSpec(factory="m:net"), SpecialClasses(classes=(0, 1), correction=0.5, of=3)
BERT = Transformers(kind="transformers", checkpoint="bert")
NEW: dict[str, Any] = {"config": {"model_type": "bert"}, "labels": ("a", "b"), "classes": 2}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (OWN, {"factory": "m:net", "kwargs": {}}),
        (
            ModelSpec(factory="m:net", kwargs={"size": 1}, special=SPECIAL, **COLUMNS, **PLACES),
            {
                "inputs": ["x"],
                "max_length": 8,
                "special": {"classes": [0, 1], "correction": 0.5, "of": 3},
                "factory": "m:net",
                "kwargs": {"size": 1},
            },
        ),
        (
            BERT,
            {
                "kind": "transformers",
                "config": None,
                "task": "sequence-classification",
                "labels": [],
                "classes": 0,
            },
        ),
        (
            Transformers(kind="transformers", task="masked-lm", frozen=("embeddings",), **NEW, **COLUMNS),
            {
                "inputs": ["x"],
                "max_length": 8,
                "kind": "transformers",
                "config": {"model_type": "bert"},
                "task": "masked-lm",
                "frozen": ["embeddings"],
                "labels": ["a", "b"],
                "classes": 2,
            },
        ),
        (OnnxModel(kind="onnx", path="m.onnx"), {"kind": "onnx", "output": "auto", "output_name": None}),
        (SklearnFile(kind="sklearn", path="m.skops", trusted=("a.B",)), {"kind": "sklearn", "trusted": ["a.B"]}),
        (
            SklearnModel(kind="sklearn", factory="m:forest", **PLACES),
            {"factory": "m:forest", "kwargs": {}, "kind": "sklearn", "trusted": []},
        ),
        (
            OwnModel(kind="m:Own", path="w.bin", inputs=("x",)),
            {"inputs": ["x"], "factory": "m:Own", "kwargs": {}, "kind": "m:Own"},
        ),
    ],
)
def test_the_key_of_a_model_has_what_it_computes(model: Any, expected: dict[str, Any]) -> None:
    assert list(model.determining().items()) == list(expected.items())


LEARNS = {
    "epochs": 2, "batch_size": 256, "learning_rate": 0.001, "optimizer": "adam", "momentum": 0.9, "weight_decay": 0.0,
    "schedule": "constant", "warmup_share": 0.0, "gradient_clip": None, "micro_batch_size": None, "precision": "auto",
    "compile": False, "keep": "last",
}  # fmt: skip
OF_ITS_OWN: dict[str, Any] = {"schedule": "m:Saw", "kwargs": {"teeth": 2}}


@pytest.mark.parametrize(
    ("training", "model", "expected"),
    [
        (TrainingSpec(epochs=2, **PLACES), OWN, LEARNS),
        (TrainingSpec(epochs=2, decays="all"), BERT, LEARNS),
        (TrainingSpec(epochs=2), BERT, LEARNS | {"decays": "matrices"}),
        (
            TrainingSpec(epochs=2, decays="matrices", layer_decay=0.9, **OF_ITS_OWN),
            OWN,
            LEARNS | {"decays": "matrices", "layer_decay": 0.9} | OF_ITS_OWN,
        ),
        (FitSpec(), SklearnModel(kind="sklearn", factory="m:forest"), {"fit": "auto"}),
    ],
)
def test_the_key_of_a_training_has_its_settings(training: Any, model: Any, expected: dict[str, Any]) -> None:
    assert training.determining(model) == expected


@pytest.mark.parametrize(
    ("kind", "of_kind"),
    [
        (ModelSpec, ["special", "factory", "kwargs", "folder", "depends_on", "kind"]),
        (Transformers, ["special", "kind", "checkpoint", "config", "task", "frozen", "labels", "classes"]),
        (OnnxModel, ["path", "kind", "output", "output_name"]),
        (SklearnFile, ["path", "kind", "trusted"]),
        (SklearnModel, ["factory", "kwargs", "folder", "depends_on", "kind", "trusted"]),
        (OwnModel, ["factory", "kwargs", "folder", "depends_on", "kind", "path"]),
    ],
)
def test_settings_of_a_model_are_written_in_one_order(kind: Any, of_kind: list[str]) -> None:
    assert list(kind.model_fields) == ["inputs", "tokenizer", "max_length", *of_kind]
