"""Loads this folder's model: `student = load(folder)`; `student(examples)` returns probabilities [N, classes] float32.

An export of Stillhouse contains this file, which needs no Stillhouse, but the packages in `requirements.txt`.
`export.json` beside it describes the model.

examples: an array [N, ...] or a data frame, a list of texts (of pairs, if it learned pairs), or, of several columns, a
dictionary of arrays by their names. The order of the classes is that of `labels` in `export.json`.
"""

from __future__ import annotations

import builtins
import importlib
import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
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
    module = getattr(Code(place / about["code"]).module(module_name), function)(**about["kwargs"])
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


# --- the code of a network ------------------------------------------------------------------------------------


class Code:
    """The modules of an export's `code/`, as submodules of a package whose name no other code has.

    So another export in this process, or the calling program, may have modules of the same names. Imports in this code
    find its own modules first, also in functions that are called later.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = str(folder.resolve()), f"export_{uuid.uuid4().hex}"
        package = ModuleType(self.name)
        package.__path__ = [self.folder]
        sys.modules[self.name] = package
        sys.meta_path.insert(0, self)
        importlib.invalidate_caches()  # of an export that was replaced meanwhile

    def module(self, name: str) -> ModuleType:
        """The module that this code imports by `name`: its own, or else an installed one."""
        return importlib.import_module(f"{self.name}.{name}" if self._holds(name) else name)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """The protocol of `sys.meta_path`."""
        if not name.startswith(f"{self.name}."):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(name, spec.loader.path, self)
        return spec

    def import_(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> ModuleType:
        """`__import__` of this code."""
        if level == 0 and self._holds(name):
            found = self.module(name)
            if fromlist:  # some may be submodules, which are then imported
                return builtins.__import__(found.__name__, globals, locals, fromlist, 0)
            return self.module(name.partition(".")[0])
        found = builtins.__import__(name, globals, locals, fromlist or (), level)
        return self._importlib() if found is importlib else found

    def _importlib(self) -> ModuleType:
        """`importlib`, of which `import_module` finds this code's modules."""

        def import_module(name: str, package: str | None = None) -> ModuleType:
            return importlib.import_module(name, package) if name.startswith(".") else self.module(name)

        found = ModuleType("importlib")
        found.__dict__.update(vars(importlib), import_module=import_module)
        return found

    def _holds(self, name: str) -> bool:
        top = name.partition(".")[0]
        if top in sys.builtin_module_names:
            return False
        spec = PathFinder.find_spec(top, [self.folder])
        return spec is not None and (spec.origin is not None or any(Path(self.folder, top).rglob("*.py")))


class _Loader(SourceFileLoader):
    """Runs a module of an export with the `__import__` of its code. No bytecode is kept: a replaced export may have
    other code of the same length, from the same second."""

    def __init__(self, name: str, path: str, code: Code) -> None:
        super().__init__(name, path)
        self.code = code

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self.code.import_}
        super().exec_module(module)


# --- inputs: how examples become batches -----------------------------------------------------------------------


def _arrays(place: Path, about: Mapping[str, Any]) -> Callable[[Any], list[Arrays]]:
    shape, dtype = tuple(about["inputs"]["shape"]), about["inputs"]["dtype"]

    def batches(examples: Any) -> list[Arrays]:
        whole = _typed(_rows_of(examples, shape), dtype, "the student was asked")
        return [{"input": whole[start : start + BATCH]} for start in range(0, len(whole), BATCH)]

    return batches


def _rows_of(examples: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Examples [N, *shape] from these, from one [*shape], or from rows of all their numbers, as in a data frame."""
    size = int(np.prod(shape))
    expected = f"[{', '.join(map(str, ('N', *shape)))}], one example {list(shape)}, or rows [N, {size}]"
    try:
        found = np.asarray(examples.to_numpy() if hasattr(examples, "to_numpy") else examples)
    except ValueError as error:
        raise ValueError(f"the student was asked rows of different lengths ({error}); expected {expected}.") from error
    if found.shape == shape:
        return found[np.newaxis]
    if found.shape[1:] in (shape, (size,)) or found.shape == (0,):
        return found.reshape(len(found), *shape)
    raise ValueError(f"the student was asked an array of shape {list(found.shape)}; expected {expected}.")


def _typed(found: NDArray[Any], dtype: str, what: str) -> NDArray[Any]:
    """The same numbers as `dtype`. Raises: ValueError where an integer `dtype` does not have them."""
    if found.dtype == object:  # a data frame with columns of different types
        found = np.asarray(found.tolist())
    if found.dtype.kind not in "iufb":
        raise ValueError(f"{what} values of type {found.dtype}; expected numbers that {dtype} has.")
    if np.dtype(dtype).kind == "f" or not found.size:
        return found.astype(dtype, copy=False)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    whole = found.dtype.kind != "f" or bool((np.isfinite(found) & (found == np.floor(found))).all())
    if not whole or not low <= int(found.min()) <= int(found.max()) <= high:
        raise ValueError(f"{what} fractions, NaN or numbers too large; expected numbers that {dtype} has.")
    return found.astype(dtype, copy=False)


def _columns(place: Path, about: Mapping[str, Any]) -> Callable[[Any], list[Arrays]]:
    names = about["inputs"]["names"]

    def batches(examples: Any) -> list[Arrays]:
        missing = [name for name in names if name not in examples]
        if missing:
            raise ValueError(f"the student was asked no column '{missing[0]}'; expected {', '.join(names)}.")
        found = {
            name: _typed(np.asarray(examples[name]), dtype, f"column '{name}' has") for name, dtype in names.items()
        }
        lengths = {name: len(column) for name, column in found.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the student was asked columns of different lengths: {lengths}; expected one length.")
        return [found] if all(lengths.values()) else []

    return batches


def _texts(place: Path, about: Mapping[str, Any]) -> Callable[[Any], list[Arrays]]:
    from tokenizers import Tokenizer

    asked = about["inputs"]
    tokenizer = Tokenizer.from_file(str(place / asked["tokenizer"]))
    if asked["max_length"] is None:
        tokenizer.no_truncation()  # the file may have that of an earlier use
    else:
        tokenizer.enable_truncation(asked["max_length"], direction=asked["truncation_side"])
    tokenizer.encode_special_tokens = asked["split_special_tokens"]
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
