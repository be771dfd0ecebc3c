"""Checks before a run writes: that files can be written, without one left behind, and free space."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.errors import RequestError
from workers.storage.locations import filesystem, is_local, is_uri, join
from workers.storage.retries import brief
from workers.storage.writing import remove, write_bytes

FILE_SERVER = (
    "is on a file server, which shows files before they are complete, and creates no folders for them; a mount of it "
    "is a folder"
)
UNFIT = {
    "memory": "is each process's own memory, and a run is many processes",
    **dict.fromkeys(("ftp", "sftp", "smb", "ssh", "webdav"), FILE_SERVER),
}
"""Protocols that a run cannot write to, and why."""


def probe_of_run(uri: str) -> None:
    """Raise `RequestError` unless every process of a run can write files below `uri`, its `storage`."""
    unfit = UNFIT.get(uri.partition("://")[0].rpartition("::")[2]) if is_uri(uri) else None
    if unfit is not None:
        raise RequestError(f"storage '{uri}' {unfit}. Set `storage` to a folder or to an object store.")
    probe_writable(uri, "storage")


def probe_writable(uri: str, key: str) -> None:
    """Raise `RequestError` unless files can be written below `uri`; leaves no file behind.

    key: the key or the option of the request that `uri` comes from.
    """
    try:
        with probed(uri):
            pass
    except Exception as error:  # each file system has its own error classes
        raise RequestError(
            f"{key} '{uri}' cannot be written ({brief(error)}). Expected a folder or URI where this user may create "
            f"files; set `{key}` to one."
        ) from error


def not_writable(folder: Path, error: OSError) -> RequestError:
    """The error for a local folder that a command was to write."""
    return RequestError(
        f"'{folder}' cannot be written ({error.strerror}). Expected a folder that this user may write: name another."
    )


def free_bytes(uri: str) -> int | None:
    """Bytes free on the disk of a local folder, which need not exist yet; None for other storage."""
    if not is_local(uri):
        return None
    place = Path(filesystem(uri)[1])
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free


@contextmanager
def probed(uri: str) -> Iterator[str]:
    """Create a small file below `uri` for the duration of the `with` block."""
    made = missing_folders(uri)
    name = join(uri, f".probe-{uuid.uuid4().hex}")
    try:
        write_bytes(name, b"probe", patient=False)
        try:
            yield name
        finally:
            remove(name)
    finally:
        remove_empty(made)


def missing_folders(uri: str) -> list[Path]:
    """The folder and its parents that do not exist yet, innermost first; empty for an object store."""
    if not is_local(uri):
        return []
    folder = Path(filesystem(uri)[1])
    return [part for part in (folder, *folder.parents) if not part.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove the empty ones of these folders."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
