"""What a folder holds: names, sizes and times of its files. The caches of file systems are not used."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workers.storage.locations import filesystem, is_local, is_uri
from workers.storage.retries import patiently


def names(folder: str) -> list[str]:
    """The names of files and folders in a folder, sorted; empty where it does not exist. One request."""
    fs, path = filesystem(folder)
    found = [str(each).rstrip("/") for each in patiently(folder, lambda: _listed(fs, path, detail=False))]
    return sorted(posixpath.basename(each) for each in found if each != path.rstrip("/"))


@dataclass(frozen=True)
class Entry:
    """A file in a listing. changed: time of the last write, in seconds since 1970; None where the storage lacks it."""

    name: str
    size: int
    changed: float | None


def entries(folder: str) -> list[Entry]:
    """The files in a folder by name; empty where the folder does not exist. One request."""
    fs, path = filesystem(folder)
    found = [
        Entry(posixpath.basename(str(each["name"])), int(each["size"]), _changed(each))
        for each in patiently(folder, lambda: _listed(fs, path, detail=True))
        if each["type"] == "file" and str(each["name"]) != path
    ]
    return sorted(found, key=lambda entry: entry.name)


def _listed(fs: Any, path: str, detail: bool) -> list[Any]:
    fs.invalidate_cache(path)  # another process may have written there
    try:
        return list(fs.ls(path, detail=detail))
    except (FileNotFoundError, NotADirectoryError):
        return []


CHANGED = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""Names of the time of the last write in fsspec's file systems."""


def _changed(info: Mapping[str, Any]) -> float | None:
    found = next((info[name] for name in CHANGED if info.get(name) is not None), None)
    try:
        found = datetime.fromisoformat(found) if isinstance(found, str) else found
    except ValueError:
        return None
    if isinstance(found, datetime):
        return found.timestamp()
    return float(found) if isinstance(found, int | float) else None


def size(uri: str) -> int:
    """Bytes of a file."""
    fs, path = filesystem(uri)

    def ask() -> int:
        fs.invalidate_cache(posixpath.dirname(path))  # another process may have written it
        return int(fs.size(path))

    return patiently(uri, ask)


def files_below(folder: str) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; links to folders are not followed."""
    fs, path = filesystem(folder)
    if is_local(folder):
        found = [os.path.join(place, name) for place, _, files in os.walk(path) for name in files]
    else:

        def list_them() -> list[str]:
            fs.invalidate_cache(path)
            return [str(each) for each in fs.find(path)]

        found = patiently(folder, list_them)
    return sorted(posixpath.relpath(each, path) for each in found)


def bytes_below(uri: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 where neither exists."""
    fs, path = filesystem(uri)

    def ask() -> int:
        fs.invalidate_cache(path)
        found = fs.find(path, detail=True)
        return sum(int((info["size"] if "size" in info else fs.size(each)) or 0) for each, info in found.items())

    return patiently(uri, ask)


def matching(pattern: str) -> list[str]:
    """URIs of the files and folders that a pattern with `*` matches, sorted by their paths."""
    fs, path = filesystem(pattern)
    protocol = pattern.removesuffix(path) if is_uri(pattern) else ""
    found = patiently(pattern, lambda: sorted(map(str, fs.glob(path))))
    return [protocol + each for each in found]
