"""Networks as graphs of ONNX: names of inputs that clash with others, and answers of elements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from workers.data.collate import NamedInputs, Strip
from workers.data.ragged import Ragged
from workers.errors import RunError
from workers.models import onnx_export, predictor
from workers.models.onnx import OnnxPredictor
from workers.specs.models import OnnxModel

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter


class Named(nn.Module):
    """The sum of what a layer makes of each column."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names, self.linear = names, nn.Linear(4, 3)

    def forward(self, **columns: Tensor) -> Tensor:
        return torch.stack([(k + 1) * torch.relu(self.linear(columns[name])) for k, name in enumerate(self.names)]).sum(
            0
        )


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.output = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, words: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.words(words) * attention_mask.unsqueeze(-1)
        return self.output(states + states.sum(1, keepdim=True))


def loaded(module: nn.Module, x: NamedInputs, folder: Path, quantized: bool = False) -> OnnxPredictor:
    path = folder / "model.onnx"
    onnx_export.write(module.eval(), x, path, "net")
    if quantized:
        onnx_export.quantize(path, folder / "int8.onnx")
        path = folder / "int8.onnx"
    found = predictor.load(OnnxModel(kind="onnx", path=str(path), output="logits"), str(path))
    assert isinstance(found, OnnxPredictor)
    return found


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("names", "inputs"),
    [
        (("input", "output"), ["input", "output"]),
        (("logits", "logits_0", "column_0"), ["column_1", "logits_0", "column_0"]),
        (("linear", "relu", "val_0", "mul", "stack"), ["linear", "relu", "val_0", "mul", "stack"]),
        (("class", "batch", "length"), ["class", "batch", "length"]),
        (("größe", "a b", "module.linear.weight", "x"), ["column_0", "column_1", "column_2", "x"]),
    ],
    ids=["input", "output", "values", "keywords", "other characters"],
)
def test_columns_of_any_name(tmp_path: Path, names: tuple[str, ...], inputs: list[str], quantized: bool) -> None:
    torch.manual_seed(0)
    module = Named(names)
    found = loaded(module, NamedInputs({name: torch.randn(3, 4) for name in names}), tmp_path, quantized)
    assert list(found.inputs) == inputs and [each.name for each in found.session.get_outputs()] == ["logits"]
    assert list(found.columns.values()) == list(names)
    columns = {name: torch.randn(5, 4) for name in reversed(names)}
    expected = module(**columns).detach()
    np.testing.assert_allclose(found(NamedInputs(columns)).logits, expected, atol=0.2 if quantized else 1e-5)


def test_answers_of_elements_are_those_of_the_positions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, rows = Tagger(), [[1, 2, 3], [4], [5, 6]]
    words = Strip(torch.tensor([word for row in rows for word in row]), np.array([3, 1, 2]))
    positions = Ragged.of([np.array([0, 2]), np.array([0]), np.array([1])])
    x = NamedInputs({"words": words}, positions, "words")
    found = loaded(module, x, tmp_path)
    expected = torch.stack([module(torch.tensor([rows[k]]), torch.ones(1, len(rows[k])))[0, place] for k, place in
                            ((0, 0), (0, 2), (1, 0), (2, 1))]).detach()  # fmt: skip
    np.testing.assert_allclose(found(x).logits, expected, atol=1e-5)
    np.testing.assert_allclose(found(x[1:2]).logits, expected[2:3], atol=1e-5)


def test_a_session_is_of_one_thread_of_a_cpu_whatever_the_package_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.device import one_thread

    asked: list[tuple[Any, Any]] = []
    session = onnxruntime.InferenceSession
    offers = ["CUDAExecutionProvider", "CPUExecutionProvider"]  # as of onnxruntime-gpu
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offers)

    def kept(content: bytes, options: Any, providers: list[str]) -> Any:
        asked.append((options.intra_op_num_threads, providers))
        return session(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", kept)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            found = loaded(Named(("a", "b")), NamedInputs({"a": torch.randn(3, 4), "b": torch.randn(3, 4)}), tmp_path)
            found.to(torch.device("cpu"))
    finally:
        torch.set_num_threads(before)
    assert asked == [(1, ["CPUExecutionProvider"])]


def test_a_graph_that_cannot_be_written_is_no_fault_of_the_network(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the graph cannot be written to"):
        onnx_export.write(nn.Linear(4, 3).eval(), torch.randn(3, 4), tmp_path / "missing/model.onnx", "net")
