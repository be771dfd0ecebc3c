"""Names of files and folders: plain paths and fsspec URIs, relative to a base, and the file system of each.

A plain path is a local file, as in fsspec.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from workers.errors import RequestError

LOCAL = ("file://", "local://")
"""Protocols of local files."""
_PROTOCOL = re.compile(r"[A-Za-z][\w+.-]*(::[A-Za-z][\w+.-]*)*://")


def is_uri(path: str) -> bool:
    """Whether `path` begins with a protocol, as in `s3://bucket/key`, or with a chain of them."""
    return _PROTOCOL.match(path) is not None


def is_local(path: str) -> bool:
    return not is_uri(path) or path.startswith(LOCAL)


def absolute(path: str, base: str = "") -> str:
    """Resolve `path` against `base` (a folder or URI; default: the working folder); URIs stay unchanged.

    fsspec resolves a relative path in a URI, such as `file://runs`, against the working folder of each process. So it
    is resolved here, like the same path without a protocol.
    """
    local = next((path.removeprefix(protocol) for protocol in LOCAL if path.startswith(protocol)), None)
    if local is not None and not os.path.isabs(local):
        path = local
    if is_uri(path):
        return path
    path = os.path.expanduser(path)
    if is_uri(base) and not os.path.isabs(path):
        return base if path == "." else join(base, path)
    return os.path.normpath(os.path.join(base or os.getcwd(), path))


def local_path(uri: str) -> Path | None:
    """The path of a local file or folder; None for other storage."""
    return Path(filesystem(uri)[1]) if is_local(uri) else None


def local_folder(uri: str) -> Path:
    """The path of a local folder, which need not exist. Raises: `RequestError` for other storage."""
    path = local_path(absolute(uri))
    if path is None:
        raise RequestError(f"'{uri}': in another storage. Expected a folder of this machine.")
    return path


def join(base: str, *parts: str) -> str:
    return posixpath.join(base.rstrip("/") or "/", *parts)


def parent(uri: str) -> str:
    """The folder of a file."""
    return uri.rsplit("/", 1)[0]


def is_hidden(path: str) -> bool:
    """Whether a path relative to a folder is that of a file which programs keep beside those of the user: in a part
    that begins with a dot, such as `.ipynb_checkpoints`, or in `__MACOSX`."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in path.split("/"))


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of `uri`, and the path on it.

    A local path is taken as it is: fsspec itself would read `::` in it as a chain of file systems, and use another
    file.
    """
    if is_local(uri):
        return LocalFileSystem(), str(LocalFileSystem._strip_protocol(uri))
    try:
        fs, path = url_to_fs(uri)
        return fs, str(path)
    except (ValueError, ImportError) as error:
        raise RequestError(
            f"'{uri}': no file system for this URI ({error}). Expected a path or an fsspec URI such "
            "as s3://bucket/folder; some protocols need a package of their own (s3fs, gcsfs)."
        ) from error
