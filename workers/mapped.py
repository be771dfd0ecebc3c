"""Large arrays read from where they lie: mapped files instead of copies in memory.

An uncompressed .npz holds its arrays byte for byte as they are in memory, so a process can map one and read the rows
that it is asked for. A mapped array (`np.memmap`, also one that a data factory returns) travels within a machine as its
place in the file; to other machines, which may not have the file, as its values.
"""

from __future__ import annotations

import mmap
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from workers.errors import RunError

MAPPED_FROM = 2**28
"""Bytes of a file from which on it is mapped. Smaller ones are copied, so that whoever overwrites the file meanwhile
does not change what a run sees."""
_LOCAL_HEADER = 30

Place = tuple[str, str, int, tuple[int, ...], tuple[int, int]]
"""Path, dtype, offset in bytes, shape, and the file's size in bytes and time of change in nanoseconds."""


def array_in_npz(path: str, name: str) -> np.memmap[Any, Any] | None:
    """The array `name` of an .npz file, mapped; None where it is compressed or not of plain numbers in C order.

    Raises: what zipfile and numpy raise for a file that is not an .npz.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        try:
            entry = archive.getinfo(f"{name}.npy")
        except KeyError:
            return None
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")  # name and extra
        file.seek(entry.header_offset + _LOCAL_HEADER + sum(lengths))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)


def place(array: np.memmap[Any, Any]) -> Place | np.ndarray[Any, Any]:
    """Where a mapped array lies; the values themselves of what the file does not hold as it is: a part of an array, one
    in another order, one that was changed in memory."""
    whole = isinstance(array.base, mmap.mmap) and array.flags.c_contiguous and array.mode != "c"
    if not whole or array.filename is None:
        return np.array(array)
    path = str(Path(array.filename).absolute())
    return path, array.dtype.str, int(array.offset), array.shape, _state(path)


def at(place: Place | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array at a place.

    Raises: `RunError` where the file is not the one that it was.
    """
    if isinstance(place, np.ndarray):
        return place
    path, dtype, offset, shape, state = place
    if _state(path) != state:
        raise RunError(f"'{path}' has changed since the run began. Run the same command again.")
    return np.memmap(path, dtype, "r", offset, shape)


def _state(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns
