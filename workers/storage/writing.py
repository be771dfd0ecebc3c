"""Atomic writes: a reader finds the whole content of a file, or no file; and removal."""

from __future__ import annotations

import os
import posixpath
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workers.storage.locations import filesystem, is_local, join
from workers.storage.reading import read_if_there
from workers.storage.retries import patiently

PARTIAL = ".partial"
"""Suffix of the names of incomplete files."""


def write_bytes(uri: str, content: bytes, patient: bool = True) -> None:
    """Write atomically: a reader finds the whole content or no file."""
    write_with(uri, lambda file: file.write(content), patient)


def write_text(uri: str, content: str) -> None:
    write_bytes(uri, content.encode("utf-8"))


def write_with(uri: str, write: Callable[[Any], Any], patient: bool = True) -> None:
    """Call `write(file)` on a binary file that becomes visible at `uri` once it is complete.

    patient: whether to retry failed requests to a remote storage.

    A local file is written beside its target, flushed to disk and renamed. An object store only shows complete objects,
    so a plain upload suffices there.
    """
    fs, path = filesystem(uri)
    if not is_local(uri):

        def upload() -> None:
            with fs.open(path, "wb") as file:
                write(file)

        return patiently(uri, upload) if patient else upload()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _written_beside(path, write) as partial:
        os.replace(partial, path)


@contextmanager
def _written_beside(path: str, write: Callable[[Any], Any]) -> Iterator[str]:
    """Write a temporary file beside `path`, flushed to disk; removed after the block unless the block moved it."""
    partial = f"{path}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        Path(partial).unlink(missing_ok=True)


def create(uri: str, content: bytes) -> bool:
    """Write a file unless it exists; of several concurrent writers exactly one gets True.

    Local files are created by a hard link, or by exclusive creation where the file system lacks links. S3, GCS and
    Azure decide by a conditional request. Other protocols of fsspec check first, so two writers may both get True.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        return _create_local(path, content)

    def put() -> None:
        fs.pipe_file(path, content, mode="create")

    try:
        patiently(uri, put)
        return True
    except FileExistsError:
        fs.invalidate_cache(path)
        return read_if_there(uri) == content  # a retry after a lost response finds its own file


def _create_local(path: str, content: bytes) -> bool:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _written_beside(path, lambda file: file.write(content)) as partial:
        try:
            os.link(partial, path)
            return True
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            pass
    try:
        with open(path, "xb") as file:
            file.write(content)
        return True
    except FileExistsError:
        return False


def copy(source: str, target: str) -> None:
    """Copy the file `source` to `target` in the same storage, atomically; by a hard link where possible."""
    if is_local(source):
        source_path, path = filesystem(source)[1], filesystem(target)[1]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = f"{path}.{uuid.uuid4().hex}{PARTIAL}"
        try:
            os.link(source_path, partial)
            os.replace(partial, path)
            return
        except OSError:  # a file system without hard links
            pass
        finally:
            Path(partial).unlink(missing_ok=True)  # POSIX rename keeps it where both names link to one file
        write_bytes(target, Path(source_path).read_bytes())
        return
    fs, path = filesystem(source)

    def copy_it() -> None:
        fs.cp_file(path, filesystem(target)[1])

    patiently(target, copy_it)


def write_folder(uri: str, source: Path) -> None:
    """Write the files of the local folder `source` below `uri`, each atomically."""
    fs, path = filesystem(uri)
    files = sorted(file for file in source.rglob("*") if file.is_file())
    if is_local(uri):
        for file in files:
            write_bytes(join(uri, file.relative_to(source).as_posix()), file.read_bytes())
        return
    targets = [posixpath.join(path, file.relative_to(source).as_posix()) for file in files]
    patiently(uri, lambda: fs.put([str(file) for file in files], targets))


def remove(uri: str, patient: bool = True) -> None:
    """Remove a file or a whole folder, if it exists.

    patient: whether to retry failed requests to a remote storage. A retry also removes files that another process has
    written meanwhile.
    """
    fs, path = filesystem(uri)

    def clear() -> None:
        with suppress(FileNotFoundError):  # another process may remove it meanwhile
            if fs.exists(path):
                fs.rm(path, recursive=True)

    if patient:
        patiently(uri, clear)
    else:
        clear()


def remove_files(folder: str, paths: Sequence[str]) -> None:
    """Remove these files below a folder, and the folders that they leave empty."""
    fs, path = filesystem(folder)
    if not is_local(folder):
        if paths:
            patiently(folder, lambda: fs.rm([posixpath.join(path, each) for each in paths]))
        return
    for each in paths:
        Path(path, each).unlink(missing_ok=True)
    above = {parent for each in paths for parent in Path(each).parents if parent != Path(".")}
    for place in sorted(above, key=lambda place: -len(place.parts)):
        with suppress(OSError):  # something else is in it
            Path(path, place).rmdir()
