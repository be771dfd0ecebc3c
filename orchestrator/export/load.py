"""Loads this folder's model: `student = load(folder)`; `student(examples)` returns probabilities [N, classes] float32,
or [N, L, classes] where each element of an example has its own; there L is the longest, and padding is 0.

An export of Stillhouse contains this file, which needs no Stillhouse, but the packages in `requirements.txt`, and
pyarrow to read Parquet. `export.json` beside it describes the model.

examples: an array [N, ...], a list of texts (of pairs, if it learned pairs), or a table: a dictionary of columns, a
list of dictionaries, a data frame, a table of Arrow or the path of a Parquet file. The columns of a table are taken by
their names, in any order, and further ones are ignored; a field of a nested column is `a.b`. A data frame whose columns
have numbers as names is an array.
`pandas.read_csv` reads texts such as NA as empty cells, unless it has `keep_default_na=False, na_values=""`.
Where `export.json` has `inputs.byte_scale`, pixels are from 0 to 1: bytes divided by it.
Rows of different lengths are lists. The order of the classes is that of `labels` in `export.json`.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import json
import os
import sys
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Logits = Callable[[Arrays], NDArray[np.float32]]
BATCH = 64
"""Examples that are computed at once, unless `batch` in `export.json` has another number."""
REAL = " real"
"""Key of a batch beside its columns: [B, L] bool, which elements with answers of their own are no padding."""


def load(folder: str | Path = Path(__file__).parent, threads: int = 1) -> Callable[[Any], NDArray[np.float32]]:
    """The student in `folder`, computed by so many threads of a CPU."""
    place = Path(folder)
    about = json.loads((place / "export.json").read_text(encoding="utf-8"))
    logits: Logits = LOADERS[about["format"]](place, about, threads)
    batches, of_elements = INPUTS[about["inputs"]["kind"]](place, about), about["inputs"].get("elements_of")
    none = np.zeros((0, 0, about["classes"]) if of_elements else (0, about["classes"]), np.float32)

    def student(examples: Any) -> NDArray[np.float32]:
        found = []
        for batch in batches(_plain(examples)):
            answers = softmax(logits({name: column for name, column in batch.items() if name != REAL}))
            found.append(answers * batch[REAL][..., np.newaxis] if of_elements and REAL in batch else answers)
        if of_elements:
            longest = max((answers.shape[1] for answers in found), default=0)
            found = [np.pad(each, ((0, 0), (0, longest - each.shape[1]), (0, 0))) for each in found]
        return np.concatenate(found) if found else none

    return student


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities [..., K] float32 from logits [..., K]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: NDArray[np.float32] = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return found


# --- formats: how a batch becomes logits -----------------------------------------------------------------------


def _onnx(place: Path, about: Mapping[str, Any], threads: int) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(place / about["weights"], options, providers=["CPUExecutionProvider"])
    names, columns = [each.name for each in session.get_inputs()], about["inputs"].get("graph", {})
    column_of = {name: name for name in names} | {name: column for column, name in columns.items()}
    return lambda batch: session.run(["logits"], {name: batch[column_of[name]] for name in names})[0]


def _torch(place: Path, about: Mapping[str, Any], threads: int) -> Logits:
    from safetensors import safe_open

    module_name, _, function = about["factory"].partition(":")
    module = getattr(Code(place / about["code"]).module(module_name), function)(**about["kwargs"])
    # `load_model` of safetensors refuses weights that are tied, by both their names
    with safe_open(place / about["weights"], "pt") as file:
        weights = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118, of safetensors
        weights._metadata = json.loads((file.metadata() or {}).get("module_versions", "{}"))  # type: ignore[attr-defined]
    module.load_state_dict(weights)
    return _of_module(module, about, threads)


def _transformers(place: Path, about: Mapping[str, Any], threads: int) -> Logits:
    import transformers

    module = getattr(transformers, about["auto_class"]).from_pretrained(place, local_files_only=True)
    logits = _of_module(module, about, threads)
    known = {name: k for k, name in module.config.id2label.items()}  # `label2id` may be missing or of an earlier head
    order: list[int] | slice = slice(about["classes"])  # a language model's vocabulary may be padded
    if set(known) == set(about["labels"]):
        order = [known[name] for name in about["labels"]]
    return lambda batch: logits(batch)[..., order]


def _of_module(module: Any, about: Mapping[str, Any], threads: int) -> Logits:
    import torch

    is_array = about["inputs"]["kind"] == "array"
    module.eval()

    @torch.no_grad()
    def logits(batch: Arrays) -> NDArray[np.float32]:
        columns = {name: torch.from_numpy(np.array(column)) for name, column in batch.items()}
        before = torch.get_num_threads()
        torch.set_num_threads(threads)  # for the call alone, since it is of the whole process
        try:
            returned = module(columns["input"]) if is_array else module(**columns)
        finally:
            torch.set_num_threads(before)
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


def _arrays(place: Path, about: Mapping[str, Any]) -> Callable[[Any], Iterator[Arrays]]:
    shape, dtype, columns = tuple(about["inputs"]["shape"]), about["inputs"]["dtype"], about["inputs"].get("columns")
    size, scale = about.get("batch", BATCH), about["inputs"].get("byte_scale")

    def batches(examples: Any) -> Iterator[Arrays]:
        table = None if columns is None else Table.of(examples)
        rows = _rows_of(examples, shape) if table is None else table.numbers(columns).reshape(-1, *shape)
        whole = _typed(rows, dtype, "the student was asked")
        if scale is not None and whole.size and whole.max() > 1 and (whole == np.floor(whole)).all():
            raise ValueError(
                f"the student was asked whole numbers up to {whole.max():g}; expected pixels from 0 to 1, as in the "
                f"run: divide bytes by {scale}."
            )
        for start in range(0, len(whole), size):
            yield {"input": whole[start : start + size]}

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
    if shape == (1,) and found.ndim == 1:  # of one column, such as a series of pandas
        return found[:, np.newaxis]
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
        if not np.isfinite(found).all():
            raise ValueError(f"{what} NaN or infinite numbers; expected finite ones.")
        return found.astype(dtype, copy=False)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    whole = found.dtype.kind != "f" or bool((np.isfinite(found) & (found == np.floor(found))).all())
    if not whole or not low <= int(found.min()) <= int(found.max()) <= high:
        raise ValueError(f"{what} fractions, NaN or numbers too large; expected numbers that {dtype} has.")
    return found.astype(dtype, copy=False)


def _columns(place: Path, about: Mapping[str, Any]) -> Callable[[Any], Iterator[Arrays]]:
    names, elements_of = about["inputs"]["names"], about["inputs"].get("elements_of")
    ragged, size = about["inputs"].get("ragged", {}), about.get("batch", BATCH)
    mask_of = {name: how["mask"] for name, how in ragged.items() if how["mask"] in names}

    def batches(examples: Any) -> Iterator[Arrays]:
        table = Table.of(examples)
        if isinstance(examples, list) and not examples:
            return
        if table is None:
            raise ValueError(
                f"the student was asked {type(examples).__name__}; expected a table of {', '.join(names)}."
            )
        masks = [mask for mask in mask_of.values() if mask not in table.names]  # made of the lengths of rows
        found = table.columns([name for name in names if name not in masks])
        for start in range(0, len(next(iter(found.values()))), size):
            batch: dict[str, NDArray[Any]] = {}
            real: dict[str, NDArray[np.bool_]] = {}
            for name, column in found.items():
                some, what = column[start : start + size], f"column '{name}' has"
                if name in ragged or name in mask_of.values():
                    how = ragged.get(name, {})
                    some, real[name] = _padded(some, how.get("padding", 0), what)
                    longest = start + int(real[name].sum(axis=1).argmax())
                    _check_length(some.shape[1], how.get("positions"), longest)
                batch[name] = _typed(np.asarray(some), names[name], what)
            for name, mask in mask_of.items():
                batch.setdefault(mask, real[name].astype(names[mask]))
            if elements_of in ragged:
                batch[REAL] = batch[mask_of[elements_of]] > 0 if elements_of in mask_of else real[elements_of]
            yield batch

    return batches


def _padded(rows: Any, padding: int, what: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Rows of different lengths as [B, L, ...], and which elements are real [B, L]."""
    if isinstance(rows, np.ndarray) and rows.dtype != object:  # of one length
        if rows.ndim < 2:
            raise ValueError(f"{what} an array of shape {list(rows.shape)}; expected a row for each example.")
        return rows, np.ones(rows.shape[:2], np.bool_)
    each = [np.asarray(row) for row in rows]
    shapes = {row.shape[1:] for row in each if row.size} or {row.shape[1:] for row in each}
    if len(shapes) > 1 or any(row.ndim == 0 for row in each):
        raise ValueError(f"{what} rows that differ in more than their length; expected a row of numbers each.")
    longest = max(1, *map(len, each)) if len(each) > 1 else max(1, len(each[0]))
    kind = np.result_type(*(row for row in each if row.size)) if any(row.size for row in each) else np.dtype(np.int64)
    found = np.full((len(each), longest, *shapes.pop()), padding, kind)
    real = np.arange(longest) < np.array([len(row) for row in each])[:, np.newaxis]
    for row, place in zip(each, found, strict=True):
        place[: len(row)] = row
    return found, real


def _texts(place: Path, about: Mapping[str, Any]) -> Callable[[Any], Iterator[Arrays]]:
    from tokenizers import Tokenizer

    asked, size = about["inputs"], about.get("batch", BATCH)
    tokenizer = Tokenizer.from_file(str(place / asked["tokenizer"]))
    if asked["max_length"] is None:
        tokenizer.no_truncation()  # the file may have that of an earlier use
    else:
        tokenizer.enable_truncation(asked["max_length"], direction=asked["truncation_side"])
    tokenizer.encode_special_tokens = asked["split_special_tokens"]
    tokenizer.enable_padding(pad_id=asked["padding"])

    def batch(texts: Sequence[Any], first: int) -> Arrays:
        tokens = tokenizer.encode_batch(texts)
        for row, each in enumerate(tokens, first):
            if not any(each.attention_mask):
                raise ValueError(
                    f"the student was asked {texts[row - first]!r:.100} in row {row}; expected a text with tokens."
                )
            _check_length(sum(each.attention_mask), asked["positions"], row)
        columns = {
            "input_ids": np.array([each.ids for each in tokens], np.int64),
            "attention_mask": np.array([each.attention_mask for each in tokens], np.int64),
            "token_type_ids": np.array([each.type_ids for each in tokens], np.int64),
        }
        return {name: columns[name] for name in asked["names"]}

    def batches(examples: Any) -> Iterator[Arrays]:
        texts = _rows(examples, asked.get("columns"), asked["texts"])
        for start in range(0, len(texts), size):
            yield batch(texts[start : start + size], start)

    return batches


def _check_length(tokens: int, most: int | None, row: int) -> None:
    """Raise ValueError where a row has more tokens than the network has positions; None: it takes any number."""
    if most is not None and tokens > most:
        raise ValueError(
            f"the student was asked {tokens:,} tokens in row {row}; expected at most {most:,}, as many as the network "
            "has positions. Cut them."
        )


def _rows(examples: Any, columns: Sequence[str] | None, texts: int) -> Sequence[Any]:
    """Texts, or pairs of texts as tuples, from one text, a list, an array or a table.

    columns: those of a table that hold texts; None: all, in their order. texts: of an example, 1 or 2.
    """
    expected = "a text" if texts == 1 else "a pair of texts"
    examples = [examples] if isinstance(examples, str) else examples
    table = Table.of(examples)
    if table is not None:
        examples = list(zip(*table.columns(table.names if columns is None else columns).values(), strict=True))
    rows = np.asarray(examples, dtype=object)
    if rows.ndim not in (1, 2):
        raise ValueError(f"the student was asked {examples!r:.100}; expected {expected} in each row.")
    found = [
        (row[0] if len(row) == 1 else tuple(row)) if isinstance(row, list | tuple) else row for row in rows.tolist()
    ]
    for row, each in enumerate(found):
        parts = each if isinstance(each, tuple) else (each,)
        if len(parts) != texts or not all(isinstance(text, str) for text in parts):
            raise ValueError(f"the student was asked {each!r:.100} in row {row}; expected {expected}.")
    return found


def _plain(value: Any) -> Any:
    """A value without 0-d arrays, as MLflow's server has them, and with lists for nested arrays, as pandas reads them
    from Parquet. Other arrays are unchanged."""
    if not isinstance(value, np.ndarray) or (value.ndim and value.dtype != object):
        return value
    found = value.tolist()
    return [_plain(each) for each in found] if isinstance(found, list) else found


class Table:
    """Columns of a caller by their names. get: a column by its name.

    No dataclass: those need their module in `sys.modules`, where not every loader has put this one.
    """

    def __init__(self, names: Sequence[str], get: Callable[[str], Any]) -> None:
        self.names = names
        self.get = functools.cache(lambda name: _plain(get(name)))  # once for all fields of a nested column

    @classmethod
    def of(cls, examples: Any) -> Table | None:
        """The table in these examples; None where they have no names."""
        if isinstance(examples, str | os.PathLike):
            try:
                import pyarrow
                from pyarrow import parquet
            except ImportError as error:
                raise ValueError(
                    f"'{examples}': reading Parquet needs the package pyarrow, which is not installed. Install it by "
                    "`pip install pyarrow`, or pass a data frame."
                ) from error
            try:
                examples = parquet.read_table(os.fspath(examples))
            except pyarrow.ArrowInvalid as error:
                raise ValueError(f"'{examples}' is no Parquet file ({error}); expected one, or a data frame.") from None
        if hasattr(examples, "column_names"):  # of Arrow
            return cls(list(examples.column_names), lambda name: examples.column(name).to_pylist())
        if isinstance(examples, Mapping):
            return cls(list(examples), examples.__getitem__)
        if hasattr(examples, "columns") and hasattr(examples, "to_numpy"):  # a data frame
            names = list(examples.columns)
            return (
                cls(names, lambda name: examples[name].to_numpy()) if all(isinstance(n, str) for n in names) else None
            )
        if isinstance(examples, list) and examples and all(isinstance(row, Mapping) for row in examples):
            names = [name for name in examples[0] if all(name in row for row in examples)]
            return cls(names, lambda name: [row[name] for row in examples])
        return None

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """These columns, as arrays or lists of one length. Raises: ValueError where one is missing."""
        found = {name: self._cells(name) for name in names}
        for name, column in found.items():
            if column is None and name not in self.names:
                raise ValueError(f"the student was asked no column '{name}'; expected {', '.join(names)}.")
            if isinstance(column, str) or not hasattr(column, "__iter__"):
                raise ValueError(
                    f"the student was asked {column!r:.100} as column '{name}'; expected a list, or rows as [{{...}}]."
                )
        found = {
            name: each if isinstance(each, np.ndarray) else [_plain(cell) for cell in each]
            for name, each in found.items()
        }
        lengths = {name: len(column) for name, column in found.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the student was asked columns of different lengths: {lengths}; expected one length.")
        return found

    def _cells(self, name: str) -> Any:
        """A column; or, by the name `a.b`, the field `b` of the mappings in a column `a`. None: there is neither.

        The field is empty where the cell of `a` is, or lacks it while another has it.
        """
        if list(self.names).count(name) > 1:
            raise ValueError(f"the student was asked several columns '{name}'; expected each name once.")
        if name in self.names:
            return self.get(name)
        for k in [k for k, sign in enumerate(name) if sign == "."]:
            outer, field = self._cells(name[:k]), name[k + 1 :]
            if hasattr(outer, "__iter__"):
                cells = [None if _is_empty(cell) else cell for cell in map(_plain, outer)]
                known = [cell for cell in cells if cell is not None]
                if all(isinstance(cell, Mapping) for cell in known) and (
                    not known or any(field in cell for cell in known)
                ):
                    return [None if cell is None else cell.get(field) for cell in cells]
        return None

    def numbers(self, encodings: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
        """The columns as numbers [N, D], side by side, as the run read those of its files."""
        found = self.columns([each["name"] for each in encodings])
        return np.concatenate([_encoded(found[each["name"]], each) for each in encodings], axis=1)


def _encoded(column: Any, how: Mapping[str, Any]) -> NDArray[Any]:
    """A column as numbers [N, D]. how: its name, the number of its numbers, the texts that are its categories, and the
    number for empty cells (None: there may be none), which may be marked by a further number."""
    what, cells = f"column '{how['name']}' has", list(column)
    if isinstance(column, np.ndarray) and column.dtype.kind in "iufb":
        empty = np.isnan(column) if column.dtype.kind == "f" and column.ndim == 1 else np.zeros(len(column), np.bool_)
    else:
        empty = np.array([_is_empty(cell) for cell in cells], np.bool_)
    if how["categories"]:
        if wrong := [cell for cell, no in zip(cells, empty, strict=True) if not no and not isinstance(cell, str)]:
            raise ValueError(f"{what} {wrong[0]}; expected texts, such as '{how['categories'][-1]}'.")
        texts = np.array(["" if no else cell for cell, no in zip(cells, empty, strict=True)], dtype=object)
        return np.array(texts[:, np.newaxis] == np.array(how["categories"], dtype=object), np.float32)
    if empty.any() and how["fill"] is None:
        raise ValueError(f"{what} an empty cell in row {int(empty.argmax())}; expected a number.")
    if empty.any():
        cells = [how["fill"] if no else cell for cell, no in zip(cells, empty, strict=True)]
    try:
        found = np.array(column if not empty.any() and isinstance(column, np.ndarray) else cells)
        if found.dtype == object and not any(isinstance(cell, str | bytes) for cell in cells):
            found = np.array([np.asarray(cell, np.float64) for cell in cells])  # of decimals, or of lists
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cells that are no numbers ({error}); expected numbers.") from error
    if found.dtype.kind not in "iufb" and found.size:
        raise ValueError(f"{what} values of type {found.dtype}, such as {cells[0]!r}; expected numbers.")
    if found.size != len(found) * how["width"]:
        raise ValueError(f"{what} rows of shape {list(found.shape[1:])}; expected {how['width']} numbers each.")
    found = found.reshape(len(found), how["width"])
    return np.concatenate([found, empty[:, np.newaxis]], axis=1) if how["flagged"] else found


def _is_empty(cell: Any) -> bool:
    """Whether a cell is None, NaN, or what pandas has for a missing value."""
    return (
        cell is None
        or type(cell).__name__ in ("NAType", "NaTType")
        or (isinstance(cell, float | np.floating) and cell != cell)
    )


LOADERS: dict[str, Callable[[Path, Mapping[str, Any], int], Logits]] = {
    "onnx": _onnx,
    "torch": _torch,
    "transformers": _transformers,
}
INPUTS = {"array": _arrays, "columns": _columns, "texts": _texts}
