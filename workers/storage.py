"""Files at any fsspec URI: a thin layer that adds only what fsspec leaves to its caller.

That is: relative paths against a base, writes that become visible complete or not at all, and a probe that says
whether a place can be written without leaving anything there. A plain path is a local file, as in fsspec.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs

from workers.errors import RequestError

logger = logging.getLogger(__name__)

T = TypeVar("T")
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait before a storage that is elsewhere is asked again."""
PARTIAL = ".partial"
"""How names of files end that are not complete."""


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


def parent(uri: str) -> str:
    """The folder that a file is in."""
    return uri.rsplit("/", 1)[0]


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
    return bool(_patiently(uri, lambda: fs.exists(path)))


def is_folder(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(_patiently(uri, lambda: fs.isdir(path)))


def read_bytes(uri: str) -> bytes:
    """The whole file, decompressed where its name ends in a compression that fsspec knows.

    Raises: `RequestError` where there is no such file, naming it.
    """
    return read_with(uri, lambda file: bytes(file.read()))


def read_with(uri: str, read: Callable[[Any], T]) -> T:
    """What `read(file)` makes of a file, which is decompressed where its name ends in a compression that fsspec knows.

    It may be called again where the storage fails meanwhile. Raises: `RequestError` where there is no such file, naming
    it.
    """

    def ask() -> T:
        with fsspec.open(uri, "rb", compression="infer") as file:
            return read(file)

    try:
        return _patiently(uri, ask)
    except FileNotFoundError:
        raise RequestError(
            f"'{uri}': no such file. Check the path; relative ones start at the configuration file's folder."
        ) from None
    except (OSError, EOFError, ValueError, ImportError, zlib.error) as error:
        raise RequestError(f"'{uri}': cannot be read ({_brief(error)}).") from error


def read_raw(uri: str) -> bytes:
    """The whole file as it is stored, whatever its name ends in. Raises: FileNotFoundError."""
    fs, path = filesystem(uri)
    return _patiently(uri, lambda: bytes(fs.cat_file(path)))


def read_if_there(uri: str) -> bytes | None:
    """The whole file as it is stored; None where there is none. One request, so other processes may write meanwhile.

    Raises: `RequestError` where it cannot be read, naming it.
    """
    try:
        return read_raw(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RequestError(f"'{uri}': cannot be read ({_brief(error)}).") from error


def glance(uri: str) -> bytes | None:
    """The content of a small file; None where there is none. One request, which is not repeated where it fails.

    Raises: whatever the storage raises.
    """
    fs, path = filesystem(uri)
    try:
        return bytes(fs.cat_file(path, start=0))  # without it, s3fs asks for the size first
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_text(uri: str) -> str:
    return read_bytes(uri).decode("utf-8")


def write_bytes(uri: str, content: bytes, patient: bool = True) -> None:
    """Write so that a reader finds the whole content or none of it."""
    write_with(uri, lambda file: file.write(content), patient)


def write_text(uri: str, content: str) -> None:
    write_bytes(uri, content.encode("utf-8"))


def create(uri: str, content: bytes) -> bool:
    """Write a file unless there is one; of several writers at once exactly one gets True.

    Local files become visible by a hard link, and where the file system has none by exclusive creation. S3, GCS and
    Azure decide by a conditional request. Other protocols of fsspec look first, so two writers may both get True.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        return _create_local(path, content)

    def put() -> None:
        fs.pipe_file(path, content, mode="create")

    try:
        _patiently(uri, put)
        return True
    except FileExistsError:
        fs.invalidate_cache(path)
        return read_if_there(uri) == content  # a request that was repeated after its answer was lost finds its own file


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


@contextmanager
def _written_beside(path: str, write: Callable[[Any], Any]) -> Iterator[str]:
    """A complete file beside `path`, flushed to the disk; removed at the end unless the block moved it."""
    partial = f"{path}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        Path(partial).unlink(missing_ok=True)


def copy(source: str, target: str) -> None:
    """The file `source` also at `target` of the same storage, complete or absent; a hard link where possible."""
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
            Path(partial).unlink(missing_ok=True)  # POSIX keeps it where both names were one file already
        write_bytes(target, Path(source_path).read_bytes())
        return
    fs, path = filesystem(source)

    def copy_it() -> None:
        fs.cp_file(path, filesystem(target)[1])

    _patiently(target, copy_it)


def write_folder(uri: str, source: Path) -> None:
    """Write the files of the local folder `source` below `uri`; each becomes visible when it is complete."""
    fs, path = filesystem(uri)
    files = sorted(file for file in source.rglob("*") if file.is_file())
    if is_local(uri):
        for file in files:
            write_bytes(join(uri, file.relative_to(source).as_posix()), file.read_bytes())
        return
    targets = [posixpath.join(path, file.relative_to(source).as_posix()) for file in files]
    _patiently(uri, lambda: fs.put([str(file) for file in files], targets))


def write_with(uri: str, write: Callable[[Any], Any], patient: bool = True) -> None:
    """Call `write(file)` on a binary file that appears at `uri` once it is complete.

    patient: whether a storage that is elsewhere is asked again where it does not do it.

    A local file is written beside its place, flushed to the disk and moved; an object store shows an object only
    once it is uploaded, so there the writing itself is enough.
    """
    fs, path = filesystem(uri)
    if not is_local(uri):

        def upload() -> None:
            with fs.open(path, "wb") as file:
                write(file)

        return _patiently(uri, upload) if patient else upload()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _written_beside(path, write) as partial:
        os.replace(partial, path)


def _patiently(uri: str, ask: Callable[[], T]) -> T:
    """Ask the storage of `uri`; one that is elsewhere again a little later where it does not do it.

    What is asked can be asked twice.
    """
    for wait_s in () if is_local(uri) else BACK_OFF_S:
        try:
            return ask()
        except (FileNotFoundError, FileExistsError, PermissionError, RequestError, ImportError, EOFError, zlib.error):
            raise
        except Exception as error:  # each storage has errors of its own
            logger.warning("storage: %s; asked again in %g s", _brief(error), wait_s)
            time.sleep(wait_s)
    return ask()


def names(folder: str) -> list[str]:
    """The names of what is in a folder, sorted; none where there is no such folder. One call to the storage."""
    fs, path = filesystem(folder)
    found = [str(each).rstrip("/") for each in _patiently(folder, lambda: _listed(fs, path, detail=False))]
    return sorted(posixpath.basename(each) for each in found if each != path.rstrip("/"))


@dataclass(frozen=True)
class Entry:
    """A file as a listing shows it. `changed`: when its content was last written, in seconds since 1970; None where
    the storage does not say."""

    name: str
    size: int
    changed: float | None


def entries(folder: str) -> list[Entry]:
    """The files in a folder by name; none where there is no such folder. One call to the storage."""
    fs, path = filesystem(folder)
    found = [
        Entry(posixpath.basename(str(each["name"])), int(each["size"]), _changed(each))
        for each in _patiently(folder, lambda: _listed(fs, path, detail=True))
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
"""What file systems of fsspec call the time of the last write."""


def _changed(info: Mapping[str, Any]) -> float | None:
    found = next((info[name] for name in CHANGED if info.get(name) is not None), None)
    try:
        found = datetime.fromisoformat(found) if isinstance(found, str) else found
    except ValueError:
        return None
    if isinstance(found, datetime):
        return found.timestamp()
    return float(found) if isinstance(found, int | float) else None


def identity(uri: str) -> str:
    """What differs once a file is written anew: its size, time, ETag or whatever its storage knows of it."""
    fs, path = filesystem(uri)

    def ask() -> str:
        fs.invalidate_cache(posixpath.dirname(path))
        return str(fs.ukey(path))

    return _patiently(uri, ask)


def file_sha256(uri: str) -> str:
    """sha256 of the file, as `sha256sum` prints it. A process reads it once, unless it is written anew.

    Raises: `RequestError` where there is no such file.
    """
    try:
        return _sha256(uri, identity(uri))
    except FileNotFoundError:
        return sha256(read_bytes(uri))  # which says so


@lru_cache(maxsize=4096)
def _sha256(uri: str, identity: str) -> str:
    return sha256(read_bytes(uri))


def size(uri: str) -> int:
    """Bytes of a file."""
    fs, path = filesystem(uri)

    def ask() -> int:
        fs.invalidate_cache(posixpath.dirname(path))  # another process may have written it
        return int(fs.size(path))

    return _patiently(uri, ask)


def remove(uri: str, patient: bool = True) -> None:
    """Remove a file or a whole folder; nothing there is no error.

    patient: whether a storage that is elsewhere is asked again where it does not do it. What another process has
    written there meanwhile goes, too.
    """
    fs, path = filesystem(uri)

    def clear() -> None:
        with suppress(FileNotFoundError):  # another process may remove it meanwhile
            if fs.exists(path):
                fs.rm(path, recursive=True)

    if patient:
        _patiently(uri, clear)
    else:
        clear()


def files_below(folder: str) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; links to folders are not followed."""
    fs, path = filesystem(folder)
    if is_local(folder):
        found = [os.path.join(place, name) for place, _, files in os.walk(path) for name in files]
    else:

        def list_them() -> list[str]:
            fs.invalidate_cache(path)
            return [str(each) for each in fs.find(path)]

        found = _patiently(folder, list_them)
    return sorted(posixpath.relpath(each, path) for each in found)


def remove_files(folder: str, paths: Sequence[str]) -> None:
    """Remove these files below a folder, and the folders that they leave empty."""
    fs, path = filesystem(folder)
    if not is_local(folder):
        if paths:
            _patiently(folder, lambda: fs.rm([posixpath.join(path, each) for each in paths]))
        return
    for each in paths:
        Path(path, each).unlink(missing_ok=True)
    above = {parent for each in paths for parent in Path(each).parents if parent != Path(".")}
    for place in sorted(above, key=lambda place: -len(place.parts)):
        with suppress(OSError):  # something else is in it
            Path(path, place).rmdir()


def missing_folders(uri: str) -> list[Path]:
    """The folder and those above it that writing into it would make, innermost first; an object store has none."""
    if not is_local(uri):
        return []
    folder = Path(filesystem(uri)[1])
    return [part for part in (folder, *folder.parents) if not part.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders that have nothing in them."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def probe_writable(uri: str) -> None:
    """Raise `RequestError` unless files can be written below `uri`; leaves no trace either way."""
    if uri.startswith("memory://"):
        raise RequestError(
            f"storage '{uri}' is each process's own memory, and a run is many processes. Set `storage` to a "
            "folder or to an object store."
        )
    try:
        with probed(uri):
            pass
    except Exception as error:  # each file system has errors of its own
        raise RequestError(
            f"storage '{uri}' cannot be written ({_brief(error)}). Expected a folder or URI where this "
            "user may create files; set `storage` to one."
        ) from error


@contextmanager
def probed(uri: str) -> Iterator[str]:
    """A small file below `uri`, there as long as the `with` block lasts."""
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


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
