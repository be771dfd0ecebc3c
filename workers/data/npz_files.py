"""Arrays of npz files, read without pickle and within the memory that is available."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import storage
from workers.data import memmap, memory
from workers.errors import MissingColumn, RequestError


def arrays(uri: str, wanted: Sequence[str]) -> list[NDArray[Any]]:
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
            raise MissingColumn(
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
