"""The folder that an export is written to: at once and whole, and never over files of another origin.

`export.json` lists every file with its sha256. So a folder with it is an export, and only such a folder is replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from workers import storage
from workers.errors import RequestError

RECORD = "export.json"
"""The description of an export, written last."""
FILES = "files"
"""Its key with the sha256 of each other file, by path."""
BYTECODE = "__pycache__"
"""Folders with bytecode, which an import of `load.py` makes. They are replaced with the export."""


def check(uri: str) -> None:
    """Raise `RequestError` where an export cannot be written to `uri`, or would replace other files.

    A target must not exist, or be empty, or hold an earlier export and nothing else.
    """
    if storage.exists(uri) and not storage.is_folder(uri):
        raise RequestError(f"--to: '{uri}' is a file. Expected a folder that does not exist yet.")
    others = set(storage.files_below(uri)) - set(_files_in(uri))
    if others:
        raise RequestError(
            f"--to: '{uri}' holds '{min(others)}', which no export wrote. Expected a folder that does not exist yet, "
            "or one with an earlier export alone, which is replaced."
        )
    storage.probe_writable(storage.parent(uri) if storage.is_local(uri) else uri, "--to")


@contextmanager
def written(uri: str, source: Path) -> Iterator[None]:
    """Write the files of the local folder `source`, with their `RECORD`, in place of an earlier export.

    On a local disk the folder appears by one rename. In an object store the earlier record is removed first and the new
    one written last, so that a folder with a record is complete. A failure, of the block too, leaves no new file
    behind; on a local disk the earlier export is back.
    """
    with (
        _on_disk(Path(os.path.realpath(storage.filesystem(uri)[1])), source)
        if storage.is_local(uri)
        else _in_objects(uri, source)
    ):
        yield


@contextmanager
def _on_disk(target: Path, source: Path) -> Iterator[None]:
    """Copy beside the target, since a rename stays on one disk; then rename. target: no link: it would be renamed."""
    made = storage.missing_folders(str(target.parent))
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}{storage.PARTIAL}")
    earlier, copied = beside.with_suffix(".earlier"), False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, beside)
        copied = True
        if target.exists():
            os.replace(target, earlier)
        os.replace(beside, target)
        yield
    except BaseException:
        if copied and not beside.exists():  # it is in place
            shutil.rmtree(target, ignore_errors=True)
        if earlier.exists():
            os.replace(earlier, target)
        shutil.rmtree(beside, ignore_errors=True)
        storage.remove_empty(made)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


@contextmanager
def _in_objects(uri: str, source: Path) -> Iterator[None]:
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    earlier = _files_in(uri)
    try:
        for some in ([RECORD], earlier):  # the record first
            _remove_there(uri, some)
        for path in sorted(files, key=lambda path: path == RECORD):
            storage.write_bytes(storage.join(uri, path), (source / path).read_bytes())
        yield
    except BaseException:
        _remove_there(uri, [*files, *earlier])
        raise


def _remove_there(uri: str, files: list[str]) -> None:
    """Remove those of the files that are below `uri`; a record of another origin may name files elsewhere."""
    there = set(storage.files_below(uri))
    storage.remove_files(uri, sorted(there.intersection(files)))


def _files_in(uri: str) -> list[str]:
    """The files of an earlier export, with the bytecode of its code; none without a record."""
    content = storage.read_if_there(storage.join(uri, RECORD))
    try:
        found = json.loads(content or b"{}").get(FILES, {})
    except (ValueError, AttributeError):
        return []
    if not isinstance(found, dict) or not found:
        return []
    return [RECORD, *found, *(path for path in storage.files_below(uri) if BYTECODE in PurePosixPath(path).parts)]
