"""The kind `onnx`: a graph that ONNX Runtime computes, on a CPU or on CUDA where its provider is installed.

The session uses as many threads as torch does in the same process, to respect the placement's share of cores. An ONNX
file holds no code; ONNX Runtime rejects operators that are not built in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import storage
from workers.data.collate import Strip
from workers.errors import RequestError
from workers.models import onnx_export, onnx_file
from workers.models.predictor import Inputs, Outputs, Predictor, log_probabilities, missing
from workers.specs.base import Precision
from workers.specs.models import OnnxModel

FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
KINDS: dict[str, Any] = {**FLOATS, **INTEGERS}
"""Input types of a graph, and the numpy types that they correspond to."""
SUMS_TO_1 = 1e-3
"""Tolerance for the sum of a row of probabilities, which are rounded in half precision."""


ZEROS = "token_type_ids"
"""The input that exported encoders ask for, and that tokenizers of single texts leave out: 0 for every token."""


class OnnxPredictor(Predictor):
    """A graph with one input [B, ...], or one for each column by its name, and an output [B, K], logits or
    probabilities; [B, L, K] where elements of examples have answers of their own."""

    def __init__(self, model: OnnxModel, content: bytes) -> None:
        self.model, self.content = model, content
        self.device = torch.device("cpu")
        self.described = _described(content, model.path)
        self.session = _session(content, model.path, self.device)
        self.inputs = _inputs(self.session, model.path)
        self.columns = _columns_of(self.session, self.inputs)
        self.output = _output(self.session, model)

    @classmethod
    def load(cls, model: OnnxModel, weights: str) -> Self:
        return cls(model, storage.read_bytes(weights))

    @classmethod
    def settled(cls, model: OnnxModel, weights: str, x: Inputs) -> tuple[OnnxModel, tuple[str, ...]]:
        """With `output: auto`, decide whether the graph returns logits or probabilities."""
        if model.output != "auto":
            return model, ()
        answers = cls.load(model, weights).answers(x)
        if answers.ndim != 2:
            return model, ()  # refused by its shape afterwards
        are = bool((answers >= 0).all()) and bool((np.abs(answers.sum(axis=1) - 1) <= SUMS_TO_1).all())
        found = "probabilities" if are else "logits"
        rows = "are >= 0 and sum to 1" if are else "do not sum to 1"
        note = (
            f"'{model.path}' is taken to return {found}: its rows for {len(x)} training examples {rows}. Set "
            f"`output: {'logits' if are else 'probabilities'}` where that is wrong."
        )
        return model.model_copy(update={"output": found}), (note,)

    @property
    def parameters(self) -> int:
        return self.described.parameters

    def to(self, device: torch.device) -> Self:
        if device != self.device:
            self.device, self.session = device, _session(self.content, self.model.path, device)
        return self

    def __call__(self, x: Inputs, precision: Precision = "float32") -> Outputs:
        answers = torch.from_numpy(self.answers(x)).to(x.device)
        return Outputs(log_probabilities(answers) if self.model.output == "probabilities" else answers)

    def answers(self, x: Inputs) -> NDArray[np.float32]:
        """The graph's output for a batch [B, ...]: [B, K] float32, or [P, K] of the batch's positions."""
        found = self._batches(x)
        return found if isinstance(x, Tensor) else x.at_positions(torch.from_numpy(found)).numpy()

    def _batches(self, x: Inputs) -> NDArray[np.float32]:
        values = {
            name: self._converted(name, column.cpu().numpy(), _expected(x)) for name, column in self._columns(x).items()
        }
        fixed = next(iter(self.inputs.values())).shape[:1]
        if not fixed or not isinstance(fixed[0], int) or fixed[0] == len(x):
            return self._run(values)
        found = [
            self._run({name: _filled(column[start : start + fixed[0]], fixed[0]) for name, column in values.items()})
            for start in range(0, len(x), fixed[0])
        ]
        return np.concatenate(found)[: len(x)]

    def _columns(self, x: Inputs) -> dict[str, Tensor]:
        """The column of each input of the graph: one dense column whatever its name, several by their names."""
        single = onnx_export.single_of(x)
        if single is not None and len(self.inputs) == 1:
            return {next(iter(self.inputs)): single}
        given = self._given(x)
        return {name: given[column] for name, column in self.columns.items()}

    def _given(self, x: Inputs) -> dict[str, Tensor]:
        """The columns of a batch that the graph asks for. Raises: `RequestError` where one is missing."""
        columns = {} if isinstance(x, Tensor) else x.padded()
        if ZEROS in self.columns.values() and ZEROS not in columns and columns:
            columns[ZEROS] = torch.zeros_like(next(iter(columns.values())))
        if lacking := [name for name, column in self.columns.items() if column not in columns]:
            has = "one dense column without a name" if isinstance(x, Tensor) else ", ".join(columns)
            shown = ", ".join(f"'{name}' {_shown(each.shape)}" for name, each in self.inputs.items())
            raise RequestError(
                f"'{self.model.path}' has the inputs {shown}; expected a column for each, and '{lacking[0]}' is none: "
                f"it is given {has}. For texts, `tokenizer` gives input_ids and attention_mask."
            )
        return columns

    def _run(self, values: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        (found,) = self.session.run([self.output], values)
        return np.array(found, np.float32)

    def _converted(self, name: str, values: NDArray[Any], graph: str) -> NDArray[Any]:
        """A column in the type of its input. graph: the expected one, for messages.

        Raises: `RequestError` where it does not fit.
        """
        asked = self.inputs[name]
        shape, expected = list(values.shape[1:]), list(asked.shape[1:])
        fits = len(shape) == len(expected) and all(
            not isinstance(size, int) or size == own for size, own in zip(expected, shape, strict=True)
        )
        if not fits:
            raise RequestError(
                f"'{self.model.path}': its input '{name}' is {_shown(asked.shape)}, and an example of "
                f"data.train is {shape}. Expected {graph}."
            )
        with np.errstate(invalid="ignore"):  # what does not fit is compared below
            converted = values.astype(KINDS[asked.type], copy=False)
        if asked.type not in FLOATS and not np.array_equal(converted, values):
            raise RequestError(
                f"'{self.model.path}': its input '{name}' takes {asked.type}, and data.train has fractions or numbers "
                "beyond it. Expected a graph that takes tensor(float)."
            )
        return converted


def _session(content: bytes, path: str, device: torch.device) -> Any:
    """An inference session on a device. Raises: `RequestError` where ONNX Runtime cannot compute the file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", "onnx", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes share the cores
    wanted = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        wanted.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(content, options, providers=wanted)
    except Exception as error:  # ONNX Runtime has its own exception types
        reason = " ".join(str(error).split())[:300]
        raise RequestError(
            f"'{path}' is no graph that ONNX Runtime can load ({reason}). Expected a graph for the installed version: "
            "export it again, perhaps with a lower opset, or update onnxruntime."
        ) from error


def _described(content: bytes, path: str) -> onnx_file.Described:
    try:
        found = onnx_file.describe(content)
    except ValueError as error:
        raise RequestError(
            f"'{path}' is no file of ONNX ({error}). Expected the file that onnx.save or torch.onnx.export wrote."
        ) from error
    if found.external:
        raise RequestError(
            f"'{path}' keeps its weights in another file, which would not be read from everywhere. Save it in one: "
            "onnx.save(model, path), or torch.onnx.export(..., external_data=False)."
        )
    return found


def _inputs(session: Any, path: str) -> dict[str, Any]:
    """The inputs of a graph, by name. Raises: `RequestError` where there is none, or one is not numeric."""
    found = {each.name: each for each in session.get_inputs()}
    if not found:
        raise RequestError(f"'{path}' has no input; expected one, the examples, or one for each column.")
    for name, each in found.items():
        if each.type not in KINDS:
            raise RequestError(f"'{path}': its input '{name}' takes {each.type}; expected {', '.join(KINDS)}.")
    return found


def _columns_of(session: Any, inputs: Iterable[str]) -> dict[str, str]:
    """The column of each input: that of its name, but where the graph's metadata name another (`onnx_export`)."""
    renamed = json.loads(session.get_modelmeta().custom_metadata_map.get(onnx_export.COLUMNS, "{}"))
    return {name: renamed.get(name, name) for name in inputs}


def _output(session: Any, model: OnnxModel) -> str:
    """The name of the output with a number for each class. Raises: `RequestError` unless it is unique."""
    outputs = session.get_outputs()
    shown = ", ".join(f"'{each.name}' {each.type} {_shown(each.shape)}" for each in outputs)
    if model.output_name is not None:
        if model.output_name not in [each.name for each in outputs]:
            raise RequestError(
                f"'{model.path}' has no output '{model.output_name}'. It has {shown}. Set `output_name` to one of "
                "these."
            )
        return model.output_name
    of_numbers = [each for each in outputs if each.type in FLOATS]
    found: list[str] = [each.name for each in of_numbers if len(each.shape) in (0, 2)]
    found = found or [each.name for each in of_numbers if len(each.shape) == 3]  # of elements of examples
    if len(found) != 1:
        raise RequestError(
            f"'{model.path}' has {len(found)} outputs of numbers [B, K] or [B, L, K]; expected one, or "
            f"its name in `output_name`. It has {shown}. (Of skl2onnx, `options={{'zipmap': False}}` gives a tensor.)"
        )
    return found[0]


def _expected(x: Inputs) -> str:
    """The graph that a batch needs, in words."""
    if not isinstance(x, Tensor) and any(isinstance(column, Strip) for column in x.columns.values()):
        return "a dynamic length, since rows differ in it: export the graph with `dynamic_shapes`, or `dynamic_axes`"
    return "a graph for the same examples"


def _filled(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """Rows of a batch of fixed size, the last of them repeated."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)]) if len(rows) < size else rows


def _shown(shape: Any) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"
