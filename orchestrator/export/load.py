"""Loads this folder's model: `student = load(folder)`; `student(examples)` returns probabilities [N, classes] float32.

An export of Stillhouse contains this file, which needs no Stillhouse, but the packages in `requirements.txt`.
`export.json` beside it describes the model.

examples: an array [N, ...] or a data frame, a list of texts (of pairs, if it learned pairs), or, of several columns, a
dictionary of arrays by their names. The order of the classes is that of `labels` in `export.json`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Logits = Callable[[Arrays], NDArray[np.float32]]
BATCH = 64
"""Examples that are computed at once."""


def load(folder: str | Path = Path(__file__).parent, threads: int = 1) -> Callable[[Any], NDArray[np.float32]]:
    """The student in `folder`, computed by so many threads of a CPU."""
    place = Path(folder)
    about = json.loads((place / "export.json").read_text(encoding="utf-8"))
    logits: Logits = LOADERS[about["format"]](place, about, threads)
    batches = INPUTS[about["inputs"]["kind"]](place, about)

    def student(examples: Any) -> NDArray[np.float32]:
        found = [logits(batch) for batch in batches(examples)]
        return softmax(np.concatenate(found)) if found else np.zeros((0, about["classes"]), np.float32)

    return student


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities [N, K] float32 from logits [N, K]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


# --- formats: how a batch becomes logits -----------------------------------------------------------------------


def _onnx(place: Path, about: Mapping[str, Any], threads: int) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(place / about["weights"], options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda batch: session.run(["logits"], {name: batch[name] for name in names})[0]


def _torch(place: Path, about: Mapping[str, Any], threads: int) -> Logits:
    from safetensors.torch import load_model

    module_name, _, function = about["factory"].partition(":")
    sys.path.insert(0, str(place / about["code"]))
    try:
        module = getattr(importlib.import_module(module_name), function)(**about["kwargs"])
    finally:
        sys.path.pop(0)
    load_model(module, place / about["weights"])
    return _of_module(module, threads)


def _transformers(place: Path, about: Mapping[str, Any], threads: int) -> Logits:
    import transformers

    module = getattr(transformers, about["auto_class"]).from_pretrained(place, local_files_only=True)
    logits, known = _of_module(module, threads), module.config.label2id
    order = [known[name] for name in about["labels"]] if set(known) == set(about["labels"]) else None
    return logits if order is None else lambda batch: logits(batch)[:, order]


def _of_module(module: Any, threads: int) -> Logits:
    import torch

    torch.set_num_threads(threads)
    module.eval()

    @torch.no_grad()
    def logits(batch: Arrays) -> NDArray[np.float32]:
        columns = {name: torch.from_numpy(np.array(column)) for name, column in batch.items()}
        returned = module(columns["input"]) if "input" in columns else module(**columns)
        found: NDArray[np.float32] = (returned["logits"] if isinstance(returned, Mapping) else returned).float().numpy()
        return found

    return logits


# --- inputs: how examples become batches -----------------------------------------------------------------------


def _arrays(place: Path, about: Mapping[str, Any]) -> Callable[[Any], list[Arrays]]:
    asked = about["inputs"]

    def batches(examples: Any) -> list[Arrays]:
        found = np.asarray(examples.to_numpy() if hasattr(examples, "to_numpy") else examples)
        whole = found.astype(asked["dtype"], copy=False).reshape(-1, *asked["shape"])
        return [{"input": whole[start : start + BATCH]} for start in range(0, len(whole), BATCH)]

    return batches


def _columns(place: Path, about: Mapping[str, Any]) -> Callable[[Any], list[Arrays]]:
    return lambda examples: [
        {name: np.asarray(examples[name], dtype) for name, dtype in about["inputs"]["names"].items()}
    ]


def _texts(place: Path, about: Mapping[str, Any]) -> Callable[[Any], list[Arrays]]:
    from tokenizers import Tokenizer

    asked = about["inputs"]
    tokenizer = Tokenizer.from_file(str(place / asked["tokenizer"]))
    if asked["max_length"] is None:
        tokenizer.no_truncation()  # the file may have that of an earlier use
    else:
        tokenizer.enable_truncation(asked["max_length"])
    tokenizer.enable_padding(pad_id=asked["padding"])

    def batch(texts: Sequence[Any]) -> Arrays:
        tokens = tokenizer.encode_batch(texts)
        columns = {
            "input_ids": np.array([each.ids for each in tokens], np.int64),
            "attention_mask": np.array([each.attention_mask for each in tokens], np.int64),
            "token_type_ids": np.array([each.type_ids for each in tokens], np.int64),
        }
        return {name: columns[name] for name in asked["names"]}

    def batches(examples: Any) -> list[Arrays]:
        texts = [examples] if isinstance(examples, str) else list(_rows(examples))
        return [batch(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]

    return batches


def _rows(examples: Any) -> Sequence[Any]:
    """Texts, or pairs of texts as tuples, from a list, an array or a data frame with a column for each text."""
    rows = np.asarray(examples, dtype=object).tolist()
    return [(row[0] if len(row) == 1 else tuple(row)) if isinstance(row, list) else row for row in rows]


LOADERS: dict[str, Callable[[Path, Mapping[str, Any], int], Logits]] = {
    "onnx": _onnx,
    "torch": _torch,
    "transformers": _transformers,
}
INPUTS = {"array": _arrays, "columns": _columns, "texts": _texts}
