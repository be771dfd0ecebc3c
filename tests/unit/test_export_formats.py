"""Which students have which format of an export."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from orchestrator.export import formats
from workers.errors import RequestError
from workers.specs.models import AnyModel, ModelSpec, SklearnModel, TransformersModel

NETWORK = ModelSpec(factory="nets:mlp")
ENCODER = TransformersModel(kind="transformers", checkpoint="folder/of/bert")
FOREST = SklearnModel(kind="sklearn", factory="trees:forest")


@pytest.mark.parametrize(
    ("name", "quantized", "model"),
    [
        ("onnx", None, NETWORK),
        ("onnx", "int8", NETWORK),
        ("onnx", "int8", ENCODER),
        ("torch", None, NETWORK),
        ("transformers", None, ENCODER),
    ],
)
def test_a_format_that_a_student_has(name: str, quantized: str | None, model: AnyModel) -> None:
    formats.check(name, quantized, model)


@pytest.mark.parametrize(
    ("name", "quantized", "model", "message"),
    [
        ("onnx", None, FOREST, "MLflow serves it as it is"),
        ("torch", None, FOREST, "a format that the student has not"),
        ("torch", None, ENCODER, "`--format onnx` and `--format transformers`"),
        ("transformers", None, NETWORK, "`--format onnx` and `--format torch`"),
        ("torch", "int8", NETWORK, "Expected `--format onnx`"),
        ("onnx", None, ModelSpec(factory="nets:mlp", kwargs={"api_key": "k" * 20}), "has a secret in it"),
    ],
)
def test_a_format_that_a_student_has_not(name: str, quantized: str | None, model: AnyModel, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        formats.check(name, quantized, model)


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"since": datetime.date(2026, 1, 1)}, "since"),
        ({"pair": (1, 2)}, "pair"),
        ({"limit": float("inf")}, "limit"),
        ({"limits": [float("nan")]}, "limits"),
    ],
)
def test_arguments_that_json_cannot_hold_are_refused(kwargs: dict[str, Any], name: str) -> None:
    with pytest.raises(RequestError, match=f"student.model.kwargs.{name} is"):
        formats._check_kwargs(ModelSpec(factory="nets:mlp", kwargs=kwargs))


def test_arguments_that_json_holds() -> None:
    formats._check_kwargs(ModelSpec(factory="nets:mlp", kwargs={"a": [1, {"b": None}], "c": 0.1, "d": True, "e": "ü"}))
