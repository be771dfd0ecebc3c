"""Writes a trained network as a graph of ONNX, and such a graph in int8.

The graph takes any number of examples, and texts of any length, by torch's exporter (`torch.onnx`, dynamo). It returns
logits: a caller chooses the temperature, and the same graph may be a member of another ensemble.

Each column of examples is an input of its own name, where that is a name in C and not that of the output. Other columns
have inputs with artificial names; the metadata `COLUMNS` of the graph then have the column of each.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from workers.data.collate import Inputs, Strip, widened
from workers.data.tokens import TYPES
from workers.errors import RequestError, RunError
from workers.models.ask import arguments, logits_in, unwrapped

INPUT, OUTPUT = "input", "logits"
"""Names of the graph's input where examples have one dense column, and of its output."""
COLUMNS = "stillhouse.columns"
"""Key of a graph's metadata: JSON, the column of each input that has another name."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What the standard of ONNX allows as a name."""
BATCH, LENGTH = "batch", "length"
"""Names of the dimensions that vary."""
QUANTIZED = ("MatMul", "Gemm", "Gather", "Attention", "LSTM")
"""Operators whose weights become int8."""
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")
"""Loggers of the exporter, whose warnings are on packages that are not installed."""


class _Logits(nn.Module):
    """The logits of a network as one tensor. names: of its keyword arguments; empty: it takes one column."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *columns: Tensor) -> Any:
        named = dict(zip(self.names, columns, strict=True)) if self.names else {}
        returned = self.module(**named) if named else self.module(*columns)
        return logits_in(returned, columns[0], self.module)


def columns_of(module: nn.Module, x: Inputs) -> dict[str, Tensor]:
    """The inputs of the graph for a batch, by their names: `INPUT`, or each argument of the network."""
    single = single_of(x)
    return {INPUT: single} if single is not None else arguments(unwrapped(module), x)  # type: ignore[arg-type]


def single_of(x: Inputs) -> Tensor | None:
    """The one dense column of a batch, which has no name; None where a network takes columns by their names."""
    return x if isinstance(x, Tensor) else x.single


def inputs_of(columns: Iterable[str]) -> dict[str, str]:
    """The name of the graph's input for each column."""
    valid = {name for name in columns if NAME.fullmatch(name) and name != OUTPUT}
    made_up = (name for k in count() if (name := f"column_{k}") not in valid)
    return {name: name if name in valid else next(made_up) for name in columns}


def write(module: nn.Module, x: Inputs, path: Path, label: str) -> None:
    """Write a network as a graph of ONNX, in one file.

    module: in evaluation mode, on the CPU. x: a batch of two or more examples; of ragged columns their lengths and the
    number of examples may vary, of dense columns the number alone. label: of the model, for messages.

    Raises: `RequestError` where the exporter cannot trace the network, or is not installed, and where the graph is too
    large for one file; `RunError` where it cannot be written.
    """
    x = widened(x)
    columns = columns_of(module, x)
    sizes, inputs = tuple(_varying(name, x) for name in columns), inputs_of(columns)
    torch_onnx = _exporter()
    try:
        with _quiet():
            program = torch_onnx.export(
                _Logits(module, () if single_of(x) is not None else tuple(columns)).eval(),
                tuple(columns.values()),
                dynamic_shapes=(sizes,),
                dynamo=True,
                verbose=False,
            )
            _name(program.model, inputs)
    except Exception as error:  # the exporter has many exception types
        raise RequestError(
            f"--format onnx: torch.onnx cannot trace the student's model {label} ({_reason(error)}). Expected a "
            "`forward` whose Python code does not depend on values or on the number of examples. `--format torch` "
            "exports any network."
        ) from error
    _save(program, path)


def _save(program: Any, path: Path) -> None:
    """Write a program of the exporter to one file. Raises: as `write`."""
    try:
        with _quiet():
            program.save(str(path), external_data=False)
    except Exception as error:  # of the disk, or of the serializer
        raise RunError(
            f"--format onnx: the graph cannot be written to '{path}' ({_reason(error)}). Nothing was written. Check "
            "the room there, or set TMPDIR to a folder with more."
        ) from error
    if path.with_name(f"{path.name}.data").exists():  # torch divides large graphs
        raise RequestError(
            "--format onnx: the weights are more than one file of ONNX holds, some 1.5 GB. `--format torch` and "
            "`--format transformers` have no such limit."
        )


def _name(graph: Any, inputs: Mapping[str, str]) -> None:
    """Name inputs and output of a graph of the exporter, and give other values that have such a name another."""
    taken = {*inputs.values(), OUTPUT}
    ends = [*graph.graph.inputs, graph.graph.outputs[0]]
    known = {value.name for value in _values(graph.graph)} | taken
    for value in _values(graph.graph):
        if value.name in taken and not any(value is end for end in ends):
            value.name = next(name for k in count() if (name := f"{value.name}_{k}") not in known)
            known.add(value.name)
    for value, name in zip(ends, [*inputs.values(), OUTPUT], strict=True):
        value.name = name
    changed = {name: column for column, name in inputs.items() if name != column}
    if changed:
        graph.metadata_props[COLUMNS] = json.dumps(changed)


def _values(graph: Any) -> list[Any]:
    """All values of a graph: inputs, weights, and what operators return."""
    of_nodes = [value for node in graph.all_nodes() for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *of_nodes]


def quantize(source: Path, target: Path) -> None:
    """Write a graph in int8: weights as integers, activations by the scale of each batch ("dynamic").

    Embeddings, linear layers (with a scale for each channel) and LSTMs are quantized. Convolutions stay in float, since
    ONNX Runtime computes them more slowly in int8: 1.8 against 0.6 ms for a TextCNN.

    Raises: `RequestError` where ONNX Runtime is not installed, or cannot quantize the graph.
    """
    try:
        from onnxruntime.quantization import quant_pre_process, quantize_dynamic
    except ImportError as error:
        raise _missing() from error
    with tempfile.TemporaryDirectory(prefix="stillhouse-export-") as scratch, _quiet():
        prepared = Path(scratch, "prepared.onnx")
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_dynamic(str(prepared), str(target), per_channel=True, op_types_to_quantize=list(QUANTIZED))
        except Exception as error:
            raise RequestError(
                f"--quantize int8: ONNX Runtime cannot quantize the graph ({_reason(error)}). Export it without."
            ) from error


def _varying(name: str, x: Inputs) -> dict[int, str]:
    """The names of an input's dimensions that vary, by their numbers."""
    if isinstance(x, Tensor):
        return {0: BATCH}
    ragged = {column: LENGTH for column, values in x.columns.items() if isinstance(values, Strip)}
    further = [column for column in ragged if column != TYPES][1:]
    ragged |= {column: f"{column}_{LENGTH}" for column in further}
    of_mask = ragged.get(name.removesuffix("_mask"), LENGTH)  # of the first ragged column, or of the one it is named by
    length = ragged.get(name) if name in x.columns else of_mask
    return {0: BATCH} if length is None else {0: BATCH, 1: length}


def _exporter() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch.onnx
    except ImportError as error:
        raise _missing() from error
    return torch.onnx


def _missing() -> RequestError:
    return RequestError(
        "--format onnx needs the packages onnx, onnxscript and onnxruntime, which are not all installed. Install them "
        "by `pip install 'stillhouse[export]'`."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Show errors of the exporter alone."""
    before: Mapping[str, int] = {name: logging.getLogger(name).level for name in LOGGERS}
    root = logging.getLogger()
    level = root.level
    try:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        root.setLevel(max(level, logging.ERROR))  # the quantizer logs by the root logger
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        for name, of_logger in before.items():
            logging.getLogger(name).setLevel(of_logger)


def _reason(error: BaseException) -> str:
    """The first exception of a chain, in a line: the exporter's own text is a page."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
