"""The folder that an export is written to: at once and whole, and never over files of another origin.

`export.json` lists every file with its sha256. So a folder with it is an export, and only such a folder is replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from workers import storage
from workers.errors import RequestError

RECORD = "export.json"
"""The description of an export, written last."""
FILES = "files"
"""Its key with the sha256 of each other file, by path."""
BYTECODE = "__pycache__"
"""Folders with bytecode, which an import of `load.py` makes. They are replaced with the export."""
ABANDONED_S = 3600.0
"""Seconds after which what an export left beside its target is of a killed one, and not of one that still runs."""
EARLIER = ".earlier"
"""Suffix of the folder of an export while it is replaced."""
UNFINISHED = f"{RECORD}{storage.PARTIAL}"
"""In an object store, the list of files of an export that is being written, and of those that it replaces."""


def check(uri: str) -> None:
    """Raise `RequestError` where an export cannot be written to `uri`, or would replace other files.

    A target does not exist, or is empty, or holds nothing but an earlier export, whole or interrupted. On a local disk
    an interrupted replacement is completed first.
    """
    if storage.is_local(uri):
        place = _local(uri)
        _recover(place)
        if os.path.ismount(place):
            raise RequestError(
                f"--to: '{uri}' is a mount point, which no rename can replace. Expected a folder in it, such as "
                f"'{storage.join(uri, 'student')}'."
            )
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
    with _on_disk(_local(uri), source) if storage.is_local(uri) else _in_objects(uri, source):
        yield


def _local(uri: str) -> Path:
    """The local folder, behind links: a rename would replace a link."""
    return Path(os.path.realpath(storage.filesystem(uri)[1]))


def _recover(target: Path) -> None:
    """Remove what a killed export to `target` left beside it; put the earlier export back where it is missing."""
    beside = re.compile(
        rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}({re.escape(EARLIER)}|{re.escape(storage.PARTIAL)})"
    )
    with suppress(OSError):  # `check` reports what cannot be written
        for left in target.parent.iterdir():
            found = beside.fullmatch(left.name)
            if not found or time.time() - left.stat().st_ctime < ABANDONED_S:
                continue
            if found[1] == EARLIER and not target.exists():
                os.replace(left, target)
            else:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _on_disk(target: Path, source: Path) -> Iterator[None]:
    """Copy beside the target, since a rename stays on one disk; then rename. target: no link."""
    made = storage.missing_folders(str(target.parent))
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}{storage.PARTIAL}")
    earlier, copied = beside.with_suffix(EARLIER), False
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
    earlier = [path for path in _files_in(uri) if path != UNFINISHED]
    try:
        listed = json.dumps({FILES: dict.fromkeys([*files, *earlier], "")})
        storage.write_text(storage.join(uri, UNFINISHED), listed)  # first, so that the next export may remove them
        for some in ([RECORD], earlier):  # the record first
            _remove_there(uri, some)
        for path in sorted(files, key=lambda path: path == RECORD):
            storage.write_bytes(storage.join(uri, path), (source / path).read_bytes())
        _remove_there(uri, [UNFINISHED])
        yield
    except BaseException:
        _remove_there(uri, [*files, *earlier, UNFINISHED])
        raise


def _remove_there(uri: str, files: list[str]) -> None:
    """Remove those of the files that are below `uri`; a record of another origin may name files elsewhere."""
    there = set(storage.files_below(uri))
    storage.remove_files(uri, sorted(there.intersection(files)))


def _files_in(uri: str) -> list[str]:
    """The files of an earlier export, whole or interrupted, with the bytecode of its code; none without a record."""
    found = [path for name in (RECORD, UNFINISHED) for path in _listed_in(uri, name)]
    if not found:
        return []
    return [*found, *(path for path in storage.files_below(uri) if BYTECODE in PurePosixPath(path).parts)]


def _listed_in(uri: str, name: str) -> list[str]:
    """The file `name` and those that it lists; none where it lists no files."""
    content = storage.read_if_there(storage.join(uri, name))
    try:
        found = json.loads(content or b"{}").get(FILES, {})
    except (ValueError, AttributeError):
        return []
    return [name, *found] if isinstance(found, dict) and found else []
