"""Files of the idx format, that of MNIST (LeCun et al. 1998), gzipped or not."""

from __future__ import annotations

import math
import posixpath
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import storage
from workers.data import memory
from workers.errors import RequestError
from workers.specs.data import DataSpec, IdxFiles


def of_split(spec: DataSpec, split: str, asked: str | IdxFiles, labelled: bool) -> tuple[str, str]:
    """The files of images and labels of a split.

    The configuration names both, or the folder with the four usual names, or the images' file (the labels' name is
    derived from it), or the common prefix of both names (`mnist/train`).
    """
    if isinstance(asked, IdxFiles):
        return storage.absolute(asked.images, spec.root), storage.absolute(asked.labels, spec.root)
    place = storage.absolute(asked, spec.root)
    if storage.is_folder(place):
        prefixes = {"train": ["train"], "test": ["t10k", "test"]}.get(split, [split])
    elif "images" in posixpath.basename(place):
        folder, name = posixpath.split(place)
        return place, storage.join(folder, name.replace("images", "labels").replace("idx3", "idx1"))
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
AGAIN = " Download or write the file again."


def array(uri: str, as_floats: bool = False) -> NDArray[Any]:
    """LeCun's idx format: two zero bytes, a type, the number of dimensions, each size, the values.

    as_floats: whether the caller converts bytes to float32, which needs more memory.
    """

    def read(file: Any) -> NDArray[Any]:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES:
            raise RequestError(
                f"'{uri}': not an idx file: it begins with {start.hex() or 'nothing'}; expected 0000, a type and a "
                "number of dimensions. Give a file of MNIST's format, whose name ends in .gz where it is gzipped."
            )
        kind, sizes = np.dtype(IDX_TYPES[start[2]]), file.read(4 * start[3])
        if len(sizes) < 4 * start[3]:
            raise RequestError(
                f"'{uri}': an idx file that ends in its header: expected {4 * start[3]} bytes of sizes; found "
                f"{len(sizes)}.{AGAIN}"
            )
        shape = struct.unpack(f">{start[3]}I", sizes)
        expected = math.prod(shape) * kind.itemsize
        says = f"'{uri}': its header says {shape}, {expected:,} bytes"
        whole = getattr(file, "size", None)  # unknown for a compressed file
        if whole is not None and whole - len(start) - len(sizes) != expected:
            raise RequestError(f"{says}; found {whole - len(start) - len(sizes):,}.{AGAIN}")
        memory.require(expected * (5 if as_floats and kind.itemsize == 1 else 1), f"{says}, which")
        content = np.empty(expected, np.uint8)
        found = _read_into(file, content.data)
        if found != expected or file.read(1):
            raise RequestError(f"{says}; found {'more' if found == expected else f'{found:,}'}.{AGAIN}")
        return content.view(kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)

    return storage.read_with(uri, read)


def _read_into(file: Any, room: memoryview) -> int:
    """Read until `room` is full or the file ends; returns the number of bytes."""
    done = 0
    while done < len(room) and (piece := file.read(min(memory.PIECE_BYTES, len(room) - done))):
        room[done : done + len(piece)] = piece
        done += len(piece)
    return done
