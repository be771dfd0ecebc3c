"""Files at any fsspec URI: a thin layer that adds only what fsspec leaves to its caller.

That is: relative paths against a base, writes that become visible complete or not at all, and a probe that says
whether a place can be written without leaving anything there. A plain path is a local file, as in fsspec.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from workers.errors import RequestError


def is_uri(path: str) -> bool:
    """Whether `path` names its own protocol, as in `s3://bucket/key`."""
    return "://" in path


def is_local(path: str) -> bool:
    return not is_uri(path) or path.startswith(("file://", "local://"))


def absolute(path: str, base: str = "") -> str:
    """`path` against `base` (a folder or URI; default: the working folder); URIs stay as they are."""
    if is_uri(path):
        return path
    if is_uri(base) and not os.path.isabs(path):
        return base if path == "." else join(base, path)
    return os.path.normpath(os.path.join(base or os.getcwd(), os.path.expanduser(path)))


def join(base: str, *parts: str) -> str:
    return posixpath.join(base.rstrip("/") or "/", *parts)


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of `uri`, and the path on it."""
    try:
        fs, path = url_to_fs(uri)
        return fs, str(path)
    except (ValueError, ImportError) as error:
        raise RequestError(
            f"'{uri}': no file system for this URI ({error}). Expected a path or an fsspec URI such "
            "as s3://bucket/folder; some protocols need a package of their own (s3fs, gcsfs)."
        ) from error


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def is_folder(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(fs.isdir(path))


def read_bytes(uri: str) -> bytes:
    """The whole file, decompressed where its name ends in a compression that fsspec knows.

    Raises: `RequestError` where there is no such file, naming it.
    """
    try:
        with fsspec.open(uri, "rb", compression="infer") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise RequestError(
            f"'{uri}': no such file. Check the path; relative ones start at the configuration file's folder."
        ) from None
    except (OSError, EOFError, ValueError, ImportError, zlib.error) as error:
        raise RequestError(f"'{uri}': cannot be read ({_brief(error)}).") from error


def read_text(uri: str) -> str:
    return read_bytes(uri).decode("utf-8")


def write_bytes(uri: str, content: bytes) -> None:
    """Write so that a reader finds the whole content or none of it."""
    write_with(uri, lambda file: file.write(content))


def write_text(uri: str, content: str) -> None:
    write_bytes(uri, content.encode("utf-8"))


def write_with(uri: str, write: Callable[[Any], Any]) -> None:
    """Call `write(file)` on a binary file that appears at `uri` once it is complete.

    A local file is written beside its place, flushed to the disk and moved; an object store shows an object only
    once it is uploaded, so there the writing itself is enough.
    """
    fs, path = filesystem(uri)
    if not is_local(uri):
        with fs.open(path, "wb") as file:
            write(file)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def names(folder: str) -> list[str]:
    """The names of what is in a folder, sorted; none where there is no such folder."""
    fs, path = filesystem(folder)
    if not fs.isdir(path):
        return []
    fs.invalidate_cache(path)
    return sorted(posixpath.basename(str(found).rstrip("/")) for found in fs.ls(path, detail=False))


def size(uri: str) -> int:
    """Bytes of a file."""
    fs, path = filesystem(uri)
    return int(fs.size(path))


def remove(uri: str) -> None:
    """Remove a file or a whole folder; nothing there is no error."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def probe_writable(uri: str) -> None:
    """Raise `RequestError` unless files can be written below `uri`; leaves no trace either way."""
    if uri.startswith("memory://"):
        raise RequestError(
            f"storage '{uri}' is each process's own memory, and a run is many processes. Set `storage` to a "
            "folder or to an object store."
        )
    _, path = filesystem(uri)
    made: list[Path] = []
    if is_local(uri):
        folder = Path(path)
        made = [part for part in (folder, *folder.parents) if not part.exists()]
    name = join(uri, f".probe-{uuid.uuid4().hex}")
    try:
        write_bytes(name, b"probe")
        remove(name)
    except Exception as error:  # each file system has errors of its own
        raise RequestError(
            f"storage '{uri}' cannot be written ({_brief(error)}). Expected a folder or URI where this "
            "user may create files; set `storage` to one."
        ) from error
    finally:
        for part in made:
            if part.is_dir() and not any(part.iterdir()):
                part.rmdir()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
