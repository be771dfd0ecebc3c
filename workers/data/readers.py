"""Readers of data files: one function per kind, listed in `READERS`. They do not validate the meaning of values.

A reader takes the data's spec and returns each split as (examples, labels). It appends notes for the user to `notes`.
Readers execute nothing in a file: they read numpy archives without pickle. Before they allocate, they compare a file's
declared size with its content and with the available memory.
"""

from __future__ import annotations

import io
import math
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import storage
from workers.data import (
    encoded_tables,
    image_folders,
    label_names,
    masking,
    memmap,
    memory,
    tables,
    text_files,
)
from workers.data.arrays import Column
from workers.data.encoded_tables import Encoding
from workers.data.examples import AnyColumn, Columns, Examples, X
from workers.data.label_names import NamedLabels
from workers.data.labels import LABELLED
from workers.data.ragged import Ragged
from workers.errors import RequestError
from workers.specs.data import DataSpec, IdxFiles, MaskingSpec
from workers.user_code import calls, factories

Labels = NDArray[Any] | Ragged | NamedLabels | None
Splits = dict[str, tuple[Examples, Labels]]

SPLITS = (*LABELLED, "unlabeled")


@dataclass(frozen=True)
class Read:
    """splits: `{"train": (x [N, ...], y [N]), ...}`; of those without labels y is None. groups: what test examples
    belong to, a value of any type for each; None where they are not in groups."""

    splits: Splits
    groups: Sequence[Any] | NDArray[Any] | None = None


def read(spec: DataSpec, notes: list[str] | None = None) -> Read:
    """The splits that `spec` names, and the groups of `test`."""
    if spec.kind == "python":
        return read_python(spec)
    groups = _groups(spec)  # first, since their column is easily misspelt
    if ":" in spec.kind:
        return Read(_read_by_own(spec), groups)
    _check_label_is_no_input(spec)
    return Read(READERS[spec.kind](spec, [] if notes is None else notes), groups)


def _check_label_is_no_input(spec: DataSpec) -> None:
    """Raise `RequestError` where a model would see the label; masked texts have no label column."""
    texts = spec.texts_from if spec.kind == "text" and spec.masking is None else ()
    for key, names in {"feature_columns": spec.feature_columns or (), "text_column": texts}.items():
        if spec.labels_from in names:
            raise RequestError(
                f"data.{key}: '{spec.labels_from}' is the label column (`data.label_column`); expected columns that "
                "models may see. Leave it out."
            )


def _groups(spec: DataSpec) -> Sequence[Any] | NDArray[Any] | None:
    """The column `group_column` of `test`, or of `train` where `test` is drawn from it; None without one."""
    if spec.group_column is None:
        return None
    split = "train" if spec.test is None else "test"
    if spec.kind not in GROUPS or not isinstance(getattr(spec, split), str):
        raise RequestError(
            f"data.group_column: data of kind '{spec.kind}' has no columns. Expected kind {', '.join(GROUPS)}; of kind "
            "python, the factory returns `(x, y, groups)` as `test`."
        )
    return GROUPS[spec.kind](_uris(spec)[split], spec.group_column)


def read_npz(spec: DataSpec, notes: list[str]) -> Splits:
    found: Splits = {}
    features, *more = spec.feature_columns or ("x",)
    if more:
        raise RequestError(f"data.feature_columns: {len(more) + 1} names; expected the one array of the examples.")
    for name, uri in _uris(spec).items():
        wanted = (features, spec.labels_from) if name in LABELLED else (features,)
        x, *y = _npz_arrays(uri, wanted)
        found[name] = (x, y[0] if y else None)
    return found


def read_parquet(spec: DataSpec, notes: list[str]) -> Splits:
    found: Splits = {}
    found.update(tables.read(_uris(spec), _roles(spec), notes))
    return found


def read_table(spec: DataSpec, notes: list[str]) -> Splits:
    found: Splits = {}
    found.update(encoded_tables.read(_uris(spec), _roles(spec), notes))
    return found


def _roles(spec: DataSpec) -> tables.Roles:
    return tables.Roles(spec.labels_from, spec.feature_columns, spec.group_column)


def encodings(spec: DataSpec) -> list[Encoding]:
    """How the columns of a table become the numbers of an example, in the order of these; none for other kinds."""
    if spec.kind == "table":
        return encoded_tables.encodings(_uris(spec), _roles(spec))
    widths = tables.widths(_uris(spec), _roles(spec)) if spec.kind == "parquet" else {}
    return [Encoding(name, width=width) for name, width in widths.items()]


def read_images(spec: DataSpec, notes: list[str]) -> Splits:
    assert spec.image_size is not None, "checked by DataSpec"
    read = {
        name: image_folders.read(uri, spec.image_size, spec.image_mode, name in LABELLED)
        for name, uri in _uris(spec).items()
    }
    y = label_names.ids_or_names({name: names for name, (_, names) in read.items() if names is not None})
    return {name: (x, y.get(name)) for name, (x, _) in read.items()}


def read_text(spec: DataSpec, notes: list[str]) -> Splits:
    if spec.masking is not None:
        return _masked(spec, spec.masking)
    labels = spec.labels_from
    return {
        name: text_files.read(uri, name, spec.texts_from, labels if name in LABELLED else None)
        for name, uri in _uris(spec).items()
    }


def _masked(spec: DataSpec, how: MaskingSpec) -> Splits:
    """Texts with masked tokens, which are the labels. Token counts are those of `train`."""
    vocabulary = masking.Vocabulary.of(how.tokenizer)
    ids = {
        name: masking.tokenized(text_files.read(uri, name, spec.texts_from, None)[0], how)
        for name, uri in _uris(spec).items()
    }
    weights = masking.weights_of(ids["train"], vocabulary, how.smoothing)
    found: Splits = {}
    for name, of_split in ids.items():
        copies = how.copies if name not in ("validation", "test") else 1
        x, labels = masking.masked(of_split, weights, vocabulary, how, copies=copies, where=name)
        found[name] = (x, labels if name in LABELLED else None)
    return found


def read_idx(spec: DataSpec, notes: list[str]) -> Splits:
    splits: Splits = {}
    asked_for = {**{name: getattr(spec, name) for name in SPLITS}, **spec.stages}
    for name, asked in asked_for.items():
        if asked is None:
            continue
        labelled = name in LABELLED
        images, labels = _idx_files(spec, name, asked, labelled)
        # Bytes to the unit interval, the convention of every MNIST paper since LeCun et al. 1998.
        pixels = _idx_array(images, as_floats=True)
        if pixels.dtype == np.uint8:
            pixels = pixels.astype(np.float32)
            pixels /= np.float32(255)
        splits[name] = (pixels, _idx_array(labels) if labelled else None)
    return splits


def read_python(spec: DataSpec) -> Read:
    """What a data factory returns. `test` may be a triple (x, y, groups)."""
    assert spec.factory is not None, "checked by DataSpec"
    if spec.stages:
        raise RequestError(
            f"student.{next(iter(spec.stages))}.data: a file, and `data.kind` is python, which reads none. Expected "
            "another kind."
        )
    returned = factories.call(spec.factory, spec.kwargs, spec.folder)
    where = f"data.factory '{spec.factory}'"
    if not isinstance(returned, dict):
        raise RequestError(
            f"{where} returned {type(returned).__name__}; expected a dict "
            '{"train": (x, y), "test": (x, y), "validation": (x, y), "unlabeled": x}.'
        )
    splits: Splits = {}
    groups = None
    if isinstance(returned.get("test"), tuple) and len(returned["test"]) == 3:
        *pair, groups = returned["test"]
        returned = {**returned, "test": tuple(pair)}
    if spec.group_column is not None:
        raise RequestError(
            "data.group_column: the data come from a factory. Expected it to return `(x, y, groups)` as `test`, and no "
            "`group_column`."
        )
    for name, value in returned.items():
        if name not in SPLITS:
            raise RequestError(f"{where} returned an unknown split '{name}'; expected {', '.join(SPLITS)}.")
        if name == "unlabeled":
            if value is not None:
                splits[name] = (_as_examples(value, f"{where}, split '{name}'"), None)
        elif isinstance(value, tuple) and len(value) == 2:
            splits[name] = _labelled(*value, f"{where}, split '{name}'")
        else:
            raise RequestError(f"{where} returned {type(value).__name__} for '{name}'; expected a pair (x, y).")
    for name in ("train",) if spec.test_share is not None else ("train", "test"):
        if name not in splits:
            raise RequestError(f"{where} returned no '{name}' split; expected at least train and test.")
    if spec.test_share is not None and "test" in splits:
        raise RequestError(f"data.test_share: {where} returns a `test` split. Leave `test_share` out.")
    return Read(splits, groups)


def _read_by_own(spec: DataSpec) -> Splits:
    """Read with the user's own class, which is called for each split."""
    reader = factories.call(spec.kind, spec.kwargs, spec.folder)
    splits: Splits = {}
    for name, uri in _uris(spec).items():
        where = f"data.kind '{spec.kind}', split '{name}' ('{uri}')"
        with calls.checked(f"{where}:", "", but=(MemoryError,)):
            returned = reader(uri)
        x, y = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        if y is None and name in LABELLED:
            raise RequestError(f"{where} returned {type(returned).__name__}; expected a pair (x, y).")
        splits[name] = _labelled(x, y, where) if name in LABELLED else (_as_examples(x, where), None)
    return splits


READERS: dict[str, Callable[[DataSpec, list[str]], Splits]] = {
    "npz": read_npz,
    "parquet": read_parquet,
    "idx": read_idx,
    "text": read_text,
    "table": read_table,
    "images": read_images,
}


GROUPS: dict[str, Callable[[str, str], Sequence[Any] | NDArray[Any]]] = {
    "npz": lambda uri, name: _npz_arrays(uri, (name,))[0],
    "parquet": tables.read_groups,
    "text": text_files.read_groups,
    "table": encoded_tables.read_groups,
}
"""By kind: the values of a column in a file."""


def _labelled(x: Any, y: Any, where: str) -> tuple[Examples, Labels]:
    """Examples and their labels: [N], or `Ragged` rows with a label for each element of an example.

    Elements with labels are positions, unless the examples have their own positions. Only train may have unlabelled
    positions.
    """
    examples = _as_examples(x, where)
    if isinstance(y, list) and y and np.ndim(y[0]) == 1:
        try:
            y = Ragged.of(y)
        except ValueError as error:
            raise RequestError(
                f"{where}: y mixes rows of labels with others ({error}). Expected a row each."
            ) from error
    return examples, y if isinstance(y, Ragged) else np.asarray(y)


def _as_examples(value: Any, where: str) -> Examples:
    """Convert a factory's x: an array, rows of different lengths, or a dict of both by name."""
    if isinstance(value, Columns):
        return _as_columns(value.columns, value.positions, value.elements_of, where)
    if isinstance(value, Ragged):
        return Columns({X: value})
    if isinstance(value, Mapping):
        return _as_columns(value, None, "", where)
    if isinstance(value, list) and len({np.shape(row) for row in value[:LOOKED_AT]}) > 1:
        raise RequestError(
            f"{where}: x is a list of rows of different lengths; expected them under a name, such as "
            '{"tokens": rows}, by which models take them.'
        )
    return _as_column(value, where)


def _as_columns(given: Mapping[str, Any], positions: Any, elements_of: str, where: str) -> Columns:
    wrong = [name for name in given if not (isinstance(name, str) and name.isidentifier())]
    if wrong or not given:
        raise RequestError(
            f"{where}: x is a dict with the keys {list(given)}; expected at least one column, each under a name "
            "that can be an argument of a model."
        )
    columns = {name: _as_any_column(column, f"{where}, column '{name}'") for name, column in given.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise RequestError(f"{where}: x has columns of different lengths, {sizes}; expected as many in each.")
    if positions is not None and not isinstance(positions, Ragged):
        positions = _as_any_column(list(positions), f"{where}, positions")
    if elements_of and elements_of not in columns:
        raise RequestError(f"{where}: `elements_of` is '{elements_of}'; expected one of {', '.join(columns)}.")
    return Columns(columns, positions, elements_of)


def _as_any_column(value: Any, where: str) -> AnyColumn:
    if isinstance(value, Ragged):
        return value
    if isinstance(value, list) and value and all(np.ndim(row) >= 1 for row in value):
        try:
            return Ragged.of(value)
        except ValueError as error:
            raise RequestError(
                f"{where}: a list of rows that differ in more than their length ({error}). Expected rows of one type "
                "and shape."
            ) from error
    return _as_column(np.asarray(value) if isinstance(value, list) else value, where)


def _as_column(value: Any, where: str) -> Column:
    """Convert a factory's dense column, after a check that it supports the interface of `Column`."""
    for method, what in CONVERSIONS.items():
        if hasattr(value, method) and not isinstance(value, np.ndarray):
            raise RequestError(
                f"{where}: x is {type(value).__name__}, {what}; expected a dense numpy array. Return x.{method}()."
            )
    if isinstance(value, np.ma.MaskedArray):
        raise RequestError(f"{where}: x is a masked array; expected values for all. Return x.filled(...).")
    if isinstance(value, np.matrix):  # its rows are matrices
        value = np.asarray(value)
    try:
        if type(value).__module__.startswith("torch"):
            value = np.asarray(value)
        _try_rows(value)
    except Exception as error:  # from the user's own class
        raise RequestError(
            f"{where}: x is {type(value).__name__}, which is no array of examples ({type(error).__name__}: {error}). "
            "Expected a numpy array, or an object with shape, dtype, a length, and x[rows] for a slice and for an "
            "array of rows in any order."
        ) from error
    column: Column = value
    return column


LOOKED_AT = 1000
"""Rows of a list that are compared, to tell rows of different lengths from an array."""
CONVERSIONS = {"toarray": "a sparse matrix", "to_numpy": "a table"}
"""Conversion methods of objects that are not arrays, and the names of such objects."""


def _try_rows(value: Any) -> None:
    """Raise where `value` does not support the interface of `Column`."""
    shape, dtype = tuple(int(size) for size in value.shape), np.dtype(value.dtype)
    if not shape:
        return  # the error about the labels names it
    if len(value) != shape[0]:
        raise TypeError(f"its length is {len(value)} and its shape {shape}")
    last = min(len(value), 2)
    for rows in (slice(0, last), np.arange(last)[::-1].copy()):
        found = value[rows]
        if not isinstance(found, np.ndarray) or found.shape != (last, *shape[1:]) or found.dtype.kind != dtype.kind:
            seen = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise TypeError(f"x[{rows}] is {seen}; expected an array of {dtype} {(last, *shape[1:])}")


def _uris(spec: DataSpec) -> dict[str, str]:
    """Each split's file."""
    found = {**{name: getattr(spec, name) for name in SPLITS}, **spec.stages}
    return {name: storage.absolute(path, spec.root) for name, path in found.items() if path is not None}


def _npz_arrays(uri: str, wanted: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays of these names in a file; the first is mapped where it is large."""
    plain = storage.is_local(uri) and uri.endswith(".npz") and storage.exists(uri)
    large = plain and storage.size(uri) >= memmap.MAPPED_FROM
    try:
        source = storage.filesystem(uri)[1] if large else memory.read_whole(uri)
        declared = _npz_bytes(uri, source, wanted)
        x = memmap.array_in_npz(str(source), wanted[0]) if large else None
        memory.require(sum(declared[name] for name in wanted if name != wanted[0] or x is None), f"'{uri}'")
        if isinstance(source, io.BytesIO):
            source.seek(0)
        with np.load(source, allow_pickle=False) as file:
            return [x if name == wanted[0] and x is not None else file[name] for name in wanted]
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        RuntimeError,
        OverflowError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise RequestError(
            f"'{uri}': not a numpy archive of plain arrays ({error}). Expected a .npz written by "
            "numpy.savez; arrays of objects (pickles) are not read."
        ) from error


def _npz_bytes(uri: str, source: str | io.BytesIO, wanted: Sequence[str]) -> dict[str, int]:
    """Bytes of each array's values by its header, which has to agree with the size in the archive."""
    found = {}
    with zipfile.ZipFile(source) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        missing = [key for key in wanted if key not in names]
        if missing:
            sparse = " This is a scipy sparse matrix: save its .toarray()." if {"indptr", "data"} <= set(names) else ""
            raise RequestError(
                f"'{uri}': no array '{missing[0]}'; found {', '.join(names) or 'none'}. Expected "
                f"{' and '.join(wanted)}, as numpy.savez(path, x=..., y=...) writes them.{sparse}"
            )
        for name in wanted:
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as file:
                shape, _, dtype = memmap.read_header(file)
                held = entry.file_size - file.tell()
            found[name] = math.prod(shape) * dtype.itemsize
            most = DEFLATE_RATIO * entry.compress_size if entry.compress_type == zipfile.ZIP_DEFLATED else held
            if not dtype.hasobject and (found[name] != held or min(shape, default=0) < 0 or held > most):
                raise RequestError(
                    f"'{uri}': the header of '{name}' says {dtype} {list(shape)}, {found[name]:,} bytes; found "
                    f"{min(held, most):,} at most. Expected as many; write the file anew."
                )
    return found


DEFLATE_RATIO = 1032
"""Largest compression ratio of deflate."""


def _idx_files(spec: DataSpec, split: str, asked: str | IdxFiles, labelled: bool) -> tuple[str, str]:
    """The files of images and labels of a split.

    The configuration names both, or the folder with the four usual names, or the images' file (the labels' name is
    derived from it), or the common prefix of both names (`mnist/train`).
    """
    if isinstance(asked, IdxFiles):
        return storage.absolute(asked.images, spec.root), storage.absolute(asked.labels, spec.root)
    place = storage.absolute(asked, spec.root)
    if "images" in posixpath.basename(place):
        folder, name = posixpath.split(place)
        return place, storage.join(folder, name.replace("images", "labels").replace("idx3", "idx1"))
    if storage.is_folder(place):
        prefixes = {"train": ["train"], "test": ["t10k", "test"]}.get(split, [split])
    else:
        folder, name = posixpath.split(place)
        place, prefixes = folder, [name]
    tried = []
    for prefix in prefixes:
        for ending in ("", ".gz"):
            images = storage.join(place, f"{prefix}-images-idx3-ubyte{ending}")
            labels = storage.join(place, f"{prefix}-labels-idx1-ubyte{ending}")
            if storage.exists(images) and (not labelled or storage.exists(labels)):
                return images, labels
            tried.append(images)
    raise RequestError(
        f"data.{split}: no idx files for '{asked}'. Looked for {tried[0]} (and .gz) with its labels; "
        "name the two files as {images: ..., labels: ...} if they are called otherwise."
    )


IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def _idx_array(uri: str, as_floats: bool = False) -> NDArray[Any]:
    """LeCun's idx format: two zero bytes, a type, the number of dimensions, each size, the values.

    as_floats: whether the caller converts bytes to float32, which needs more memory.
    """

    def read(file: Any) -> NDArray[Any]:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES:
            raise RequestError(f"'{uri}': not an idx file (it begins with {start.hex() or 'nothing'}).")
        kind, sizes = np.dtype(IDX_TYPES[start[2]]), file.read(4 * start[3])
        if len(sizes) < 4 * start[3]:
            raise RequestError(f"'{uri}': an idx file cut off inside its header.")
        shape = struct.unpack(f">{start[3]}I", sizes)
        expected = math.prod(shape) * kind.itemsize
        says = f"'{uri}': its header says {shape}, {expected:,} bytes"
        whole = getattr(file, "size", None)  # unknown for a compressed file
        if whole is not None and whole - len(start) - len(sizes) != expected:
            raise RequestError(f"{says}; found {whole - len(start) - len(sizes):,}.")
        memory.require(expected * (5 if as_floats and kind.itemsize == 1 else 1), f"{says}, which")
        content = np.empty(expected, np.uint8)
        found = _read_into(file, content.data)
        if found != expected or file.read(1):
            raise RequestError(f"{says}; found {'more' if found == expected else f'{found:,}'}.")
        return content.view(kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)

    return storage.read_with(uri, read)


def _read_into(file: Any, room: memoryview) -> int:
    """Read until `room` is full or the file ends; returns the number of bytes."""
    done = 0
    while done < len(room) and (piece := file.read(min(memory.PIECE_BYTES, len(room) - done))):
        room[done : done + len(piece)] = piece
        done += len(piece)
    return done
