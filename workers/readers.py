"""Files of each kind -> arrays. One function a kind, found in `READERS`; none checks what the values mean.

A reader takes the data's spec and gives each split as (inputs, labels). Nothing in a file is executed: numpy
archives are read without pickle.
"""

from __future__ import annotations

import io
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from workers import factories, mapped, storage
from workers.errors import RequestError
from workers.inputs import Inputs
from workers.specs import DataSpec, IdxFiles

Labels = NDArray[Any] | None
Splits = dict[str, tuple[Inputs, Labels]]

SPLITS = ("train", "validation", "test", "unlabeled")


def read(spec: DataSpec) -> Splits:
    """The splits that `spec` names: `{"train": (x [N, ...], y [N]), ...}`; `unlabeled` has no labels."""
    return READERS[spec.kind](spec)


def read_npz(spec: DataSpec) -> Splits:
    return _each_file(spec, _npz_arrays)


def read_parquet(spec: DataSpec) -> Splits:
    return _each_file(spec, lambda uri, labelled: _parquet_arrays(uri, labelled, spec))


def read_idx(spec: DataSpec) -> Splits:
    splits: Splits = {}
    for name in SPLITS:
        asked = getattr(spec, name)
        if asked is None:
            continue
        labelled = name != "unlabeled"
        images, labels = _idx_files(spec, name, asked, labelled)
        # Bytes to the unit interval, the convention of every MNIST paper since LeCun et al. 1998.
        pixels = _idx_array(images)
        if pixels.dtype == np.uint8:
            pixels = pixels.astype(np.float32) / np.float32(255)
        splits[name] = (pixels, _idx_array(labels) if labelled else None)
    return splits


def read_python(spec: DataSpec) -> Splits:
    assert spec.factory is not None, "checked by DataSpec"
    returned = factories.call(spec.factory, spec.kwargs, spec.folder)
    where = f"data.factory '{spec.factory}'"
    if not isinstance(returned, dict):
        raise RequestError(
            f"{where} returned {type(returned).__name__}; expected a dict "
            '{"train": (x, y), "test": (x, y), "validation": (x, y), "unlabeled": x}.'
        )
    splits: Splits = {}
    for name, value in returned.items():
        if name not in SPLITS:
            raise RequestError(f"{where} returned an unknown split '{name}'; expected {', '.join(SPLITS)}.")
        if name == "unlabeled":
            if value is not None:
                splits[name] = (_as_inputs(value, f"{where}, split '{name}'"), None)
        elif isinstance(value, tuple) and len(value) == 2:
            splits[name] = (_as_inputs(value[0], f"{where}, split '{name}'"), np.asarray(value[1]))
        else:
            raise RequestError(f"{where} returned {type(value).__name__} for '{name}'; expected a pair (x, y).")
    for name in ("train", "test"):
        if name not in splits:
            raise RequestError(f"{where} returned no '{name}' split; expected at least train and test.")
    return splits


READERS: dict[str, Callable[[DataSpec], Splits]] = {
    "npz": read_npz,
    "parquet": read_parquet,
    "idx": read_idx,
    "python": read_python,
}


def _as_inputs(value: Any, where: str) -> Inputs:
    if hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__"):
        return np.asarray(value) if type(value).__module__.startswith("torch") else value
    raise RequestError(
        f"{where}: x is {type(value).__name__}; expected a numpy array, or an object with shape, dtype, "
        "a length and x[rows]."
    )


def _each_file(spec: DataSpec, arrays: Callable[[str, bool], tuple[NDArray[Any], Labels]]) -> Splits:
    return {
        name: arrays(storage.absolute(path, spec.root), name != "unlabeled")
        for name in SPLITS
        if (path := getattr(spec, name)) is not None
    }


def _npz_arrays(uri: str, labelled: bool) -> tuple[NDArray[Any], Labels]:
    plain = storage.is_local(uri) and uri.endswith(".npz") and storage.exists(uri)
    large = plain and storage.size(uri) >= mapped.MAPPED_FROM
    wanted = ("x", "y") if labelled else ("x",)
    try:
        x = mapped.array_in_npz(storage.filesystem(uri)[1], "x") if large else None
        source = storage.filesystem(uri)[1] if large else io.BytesIO(storage.read_bytes(uri))
        with np.load(source, allow_pickle=False) as file:
            missing = [key for key in wanted if key not in file]
            if missing:
                raise RequestError(
                    f"'{uri}': no array '{missing[0]}'; found {', '.join(file.files) or 'none'}. Expected "
                    f"{' and '.join(wanted)}, as numpy.savez(path, x=..., y=...) writes them."
                )
            return file["x"] if x is None else x, file["y"] if labelled else None
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(
            f"'{uri}': not a numpy archive of plain arrays ({error}). Expected a .npz written by "
            "numpy.savez; arrays of objects (pickles) are not read."
        ) from error


def _parquet_arrays(uri: str, labelled: bool, spec: DataSpec) -> tuple[NDArray[Any], Labels]:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"'{uri}': not a Parquet file ({str(error).splitlines()[0]}).") from error
    label = spec.label_column
    if labelled and label not in table.column_names:
        raise RequestError(
            f"'{uri}': no label column '{label}'; found {', '.join(table.column_names)}. Set `data.label_column`."
        )
    names = list(spec.feature_columns or [name for name in table.column_names if name != label])
    unknown = [name for name in names if name not in table.column_names]
    if unknown or not names:
        raise RequestError(
            f"'{uri}': no feature column '{', '.join(unknown)}'; found {', '.join(table.column_names)}. "
            "Set `data.feature_columns`."
        )
    columns = [_parquet_column(table.column(name), name, uri) for name in names]
    features = columns[0] if len(columns) == 1 and columns[0].ndim > 1 else np.column_stack(columns)
    return features, _plain(table.column(label), label, uri) if labelled else None


def _parquet_column(column: pa.ChunkedArray, name: str, uri: str) -> NDArray[Any]:
    """A column of numbers as [N]; one of lists, all of one length, as [N, length]."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return _plain(column, name, uri)
    rows = column.combine_chunks()
    lengths = pc.unique(pc.list_value_length(rows)).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise RequestError(f"'{uri}': column '{name}' has lists of different lengths or none; expected one length.")
    return _plain(rows.flatten(), name, uri).reshape(len(rows), lengths[0])


def _plain(column: Any, name: str, uri: str) -> NDArray[Any]:
    array = np.asarray(column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy())
    if array.dtype.kind not in "fiub":
        raise RequestError(f"'{uri}': column '{name}' is of type {column.type}; expected numbers.")
    return array


def _idx_files(spec: DataSpec, split: str, asked: str | IdxFiles, labelled: bool) -> tuple[str, str]:
    """The files of images and labels of a split.

    Asked for as both, as the folder of the four files under their usual names, as the images' file (the labels'
    name follows from it), or as what the two names begin with (`mnist/train`).
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


def _idx_array(uri: str) -> NDArray[Any]:
    """LeCun's idx format: two zero bytes, a type, the number of dimensions, each size, the values."""
    content = storage.read_bytes(uri)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise RequestError(f"'{uri}': not an idx file (it begins with {content[:4].hex() or 'nothing'}).")
    kind, dimensions = np.dtype(IDX_TYPES[content[2]]), content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise RequestError(f"'{uri}': an idx file cut off inside its header.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(content) - header != expected:
        raise RequestError(f"'{uri}': its header says {shape}, {expected} bytes; found {len(content) - header}.")
    return np.frombuffer(content, kind, offset=header).reshape(shape).astype(kind.newbyteorder("="))
