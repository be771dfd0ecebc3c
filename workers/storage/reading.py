"""Files as a whole: their content, decompressed or as stored, and their checksums."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from fsspec.core import OpenFile
from fsspec.utils import compressions

from workers.errors import RequestError
from workers.storage.locations import filesystem
from workers.storage.retries import DAMAGED, T, brief, patiently

CHECK_PATH = "Check the path; relative ones start at the configuration file's folder."
"""The end of an error about a file that is missing."""
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": "backports.zstd", ".lz4": "lz4"}
"""Endings of compressed files, and the module that reads each; the last two are packages of their own."""
FILES = (
    *COMPRESSED, ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".npz", ".npy",
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".skops", ".onnx",
)  # fmt: skip
"""Endings of what is read as a file. Others may be of a folder, as in `bert-v1.0`, which HTTP calls a file, too."""
BLOCK = 2**22
"""Bytes that are read at a time, where a file is hashed."""


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(patiently(uri, lambda: fs.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether a folder exists. Of a name with an ending of `FILES`, a file is asked for first: that needs no listing of
    the storage, for which the credentials may not suffice."""
    fs, path = filesystem(uri)
    ends_as_file = path.lower().endswith(FILES)
    return bool(patiently(uri, lambda: not (ends_as_file and fs.isfile(path)) and fs.isdir(path)))


def read_bytes(uri: str) -> bytes:
    """The whole file, decompressed if its name has a suffix for compression that fsspec knows.

    Raises: `RequestError` where the file does not exist or cannot be read.
    """
    return read_with(uri, lambda file: bytes(file.read()))


def read_with(uri: str, read: Callable[[Any], T]) -> T:
    """The result of `read(file)`; the file is decompressed if its name has a suffix for compression that fsspec knows.

    `read` may be called again after a failure of the storage. Raises: `RequestError` where the file does not exist or
    cannot be read.
    """
    _check_codec(uri)

    def ask() -> T:
        with OpenFile(*filesystem(uri), compression="infer") as file:
            return read(file)

    try:
        return patiently(uri, ask)
    except FileNotFoundError:
        raise RequestError(f"'{uri}': no such file. {CHECK_PATH}") from None
    except (OSError, ValueError, ImportError, *DAMAGED) as error:
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> RequestError:
    return RequestError(
        f"'{uri}': cannot be read ({brief(error)}). Expected a file that this user may read: check its permissions "
        "and that it is whole."
    )


def _check_codec(uri: str) -> None:
    """Raise `RequestError` for a compression that fsspec cannot read here: it would pass on the bytes as they are."""
    ending = posixpath.splitext(uri.lower())[1]
    if ending in COMPRESSED and ending.removeprefix(".") not in compressions:
        raise RequestError(
            f"'{uri}': reading {ending} needs the package '{COMPRESSED[ending]}', which is not installed here. "
            "Install it, or give the file uncompressed or as .gz."
        )


def read_raw(uri: str) -> bytes:
    """The whole file as it is stored, without decompression. Raises: FileNotFoundError."""
    fs, path = filesystem(uri)
    return patiently(uri, lambda: bytes(fs.cat_file(path)))


def read_if_there(uri: str) -> bytes | None:
    """The whole file as it is stored; None where it does not exist. One request, so concurrent writers are safe.

    Raises: `RequestError` where it cannot be read.
    """
    try:
        return read_raw(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RequestError:
        raise
    except Exception as error:  # each storage has its own error classes
        raise _unreadable(uri, error) from error


def glance(uri: str) -> bytes | None:
    """The content of a small file; None where it does not exist. One request without retries.

    Raises: the exceptions of the storage.
    """
    fs, path = filesystem(uri)
    try:
        return bytes(fs.cat_file(path, start=0))  # without `start`, s3fs requests the size first
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_text(uri: str) -> str:
    return read_bytes(uri).decode("utf-8")


def file_sha256(uri: str) -> str:
    """sha256 of the file, in the format of `sha256sum`; cached in this process until the file changes.

    Raises: `RequestError` where the file does not exist.
    """
    try:
        return _sha256(uri, identity(uri))
    except FileNotFoundError:
        return _hashed(uri)  # raises the error


@lru_cache(maxsize=4096)
def _sha256(uri: str, identity: str) -> str:
    return _hashed(uri)


def _hashed(uri: str) -> str:
    def read(file: Any) -> str:
        found = hashlib.sha256()
        for block in blocks(file):
            found.update(block)
        return found.hexdigest()

    return read_with(uri, read)


def identity(uri: str) -> str:
    """A text that changes when a file is rewritten: from its size, time, ETag or other properties."""
    fs, path = filesystem(uri)

    def ask() -> str:
        fs.invalidate_cache(posixpath.dirname(path))
        return str(fs.ukey(path))

    return patiently(uri, ask)


def blocks(file: Any) -> Iterator[bytes]:
    """The content of an open file in blocks of at most `BLOCK` bytes, so that a large file takes no memory."""
    while block := file.read(BLOCK):
        yield block


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
