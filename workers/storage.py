"""Files at any fsspec URI: a thin layer for features that fsspec lacks.

These are paths relative to a base, atomic writes, retries, and a check for write access that leaves no file behind. A
plain path is a local file, as in fsspec.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import lzma
import os
import posixpath
import re
import shutil
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import OpenFile, url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import compressions

from workers.errors import RequestError, Unreachable

logger = logging.getLogger(__name__)

T = TypeVar("T")
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waiting times in seconds before each retry of a request to a remote storage."""
CHECK_PATH = "Check the path; relative ones start at the configuration file's folder."
"""The end of an error about a file that is missing."""
LACKS_ACCESS = "Credentials"
"""In the names of the errors by which clients of object stores report that they find no credentials."""
LOCAL = ("file://", "local://")
"""Protocols of local files."""
_PROTOCOL = re.compile(r"[A-Za-z][\w+.-]*(::[A-Za-z][\w+.-]*)*://")
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": "backports.zstd", ".lz4": "lz4"}
"""Endings of compressed files, and the module that reads each; the last two are packages of their own."""
FILES = (
    *COMPRESSED, ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".npz", ".npy",
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".skops", ".onnx",
)  # fmt: skip
"""Endings of what is read as a file. Others may be of a folder, as in `bert-v1.0`, which HTTP calls a file, too."""
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
"""What decompression raises for a damaged file."""
ANSWERS = (
    FileNotFoundError, NotADirectoryError, FileExistsError, RequestError, ImportError, MemoryError, *DAMAGED,
)  # fmt: skip
"""Exceptions that say something about a file, and are not raised by a storage that fails."""
FILE_SERVER = (
    "is on a file server, which shows files before they are complete, and creates no folders for them; a mount of it "
    "is a folder"
)
UNFIT = {
    "memory": "is each process's own memory, and a run is many processes",
    **dict.fromkeys(("ftp", "sftp", "smb", "ssh", "webdav"), FILE_SERVER),
}
"""Protocols that a run cannot write to, and why."""
PARTIAL = ".partial"
"""Suffix of the names of incomplete files."""
BLOCK = 2**22
"""Bytes that are read at a time, where a file is hashed."""


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


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(_patiently(uri, lambda: fs.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether a folder exists. Of a name with an ending of `FILES`, a file is asked for first: that needs no listing of
    the storage, for which the credentials may not suffice."""
    fs, path = filesystem(uri)
    ends_as_file = path.lower().endswith(FILES)
    return bool(_patiently(uri, lambda: not (ends_as_file and fs.isfile(path)) and fs.isdir(path)))


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
        return _patiently(uri, ask)
    except FileNotFoundError:
        raise RequestError(f"'{uri}': no such file. {CHECK_PATH}") from None
    except (OSError, ValueError, ImportError, *DAMAGED) as error:
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> RequestError:
    return RequestError(
        f"'{uri}': cannot be read ({_brief(error)}). Expected a file that this user may read: check its permissions "
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
    return _patiently(uri, lambda: bytes(fs.cat_file(path)))


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


def write_bytes(uri: str, content: bytes, patient: bool = True) -> None:
    """Write atomically: a reader finds the whole content or no file."""
    write_with(uri, lambda file: file.write(content), patient)


def write_text(uri: str, content: str) -> None:
    write_bytes(uri, content.encode("utf-8"))


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
        _patiently(uri, put)
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

    _patiently(target, copy_it)


def write_folder(uri: str, source: Path) -> None:
    """Write the files of the local folder `source` below `uri`, each atomically."""
    fs, path = filesystem(uri)
    files = sorted(file for file in source.rglob("*") if file.is_file())
    if is_local(uri):
        for file in files:
            write_bytes(join(uri, file.relative_to(source).as_posix()), file.read_bytes())
        return
    targets = [posixpath.join(path, file.relative_to(source).as_posix()) for file in files]
    _patiently(uri, lambda: fs.put([str(file) for file in files], targets))


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

        return _patiently(uri, upload) if patient else upload()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _written_beside(path, write) as partial:
        os.replace(partial, path)


def _patiently(uri: str, ask: Callable[[], T]) -> T:
    """Send a request to the storage of `uri`, with retries if the storage is remote.

    ask: sends the request, which must be idempotent.

    Raises: `RequestError` where a remote storage denies access, or fails all the same; FileNotFoundError,
    FileExistsError, and errors of local files and of compressed ones.
    """
    if is_local(uri):
        return ask()
    for wait_s in (*BACK_OFF_S, None):
        try:
            return ask()
        except ANSWERS:
            raise
        except Exception as error:  # each storage has its own error classes
            if isinstance(error, PermissionError) or LACKS_ACCESS in type(error).__name__:
                raise RequestError(
                    f"'{uri}': no access ({_brief(error)}). Give this process the credentials of the storage, by "
                    "environment variables or its configuration file."
                ) from error
            if wait_s is None and isinstance(error, ValueError):  # of what reads the file
                raise
            if wait_s is None:
                raise Unreachable(
                    f"'{uri}': cannot be accessed ({_brief(error)}). Check the URI, and that this machine reaches the "
                    "storage."
                ) from error
            logger.warning("storage: %s; asked again in %g s", _brief(error), wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def names(folder: str) -> list[str]:
    """The names of files and folders in a folder, sorted; empty where it does not exist. One request."""
    fs, path = filesystem(folder)
    found = [str(each).rstrip("/") for each in _patiently(folder, lambda: _listed(fs, path, detail=False))]
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


def identity(uri: str) -> str:
    """A text that changes when a file is rewritten: from its size, time, ETag or other properties."""
    fs, path = filesystem(uri)

    def ask() -> str:
        fs.invalidate_cache(posixpath.dirname(path))
        return str(fs.ukey(path))

    return _patiently(uri, ask)


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


def blocks(file: Any) -> Iterator[bytes]:
    """The content of an open file in blocks of at most `BLOCK` bytes, so that a large file takes no memory."""
    while block := file.read(BLOCK):
        yield block


def size(uri: str) -> int:
    """Bytes of a file."""
    fs, path = filesystem(uri)

    def ask() -> int:
        fs.invalidate_cache(posixpath.dirname(path))  # another process may have written it
        return int(fs.size(path))

    return _patiently(uri, ask)


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


def bytes_below(uri: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 where neither exists."""
    fs, path = filesystem(uri)

    def ask() -> int:
        fs.invalidate_cache(path)
        found = fs.find(path, detail=True)
        return sum(int((info["size"] if "size" in info else fs.size(each)) or 0) for each, info in found.items())

    return _patiently(uri, ask)


def matching(pattern: str) -> list[str]:
    """URIs of the files and folders that a pattern with `*` matches, sorted by their paths."""
    fs, path = filesystem(pattern)
    protocol = pattern.removesuffix(path) if is_uri(pattern) else ""
    found = _patiently(pattern, lambda: sorted(map(str, fs.glob(path))))
    return [protocol + each for each in found]


def is_hidden(path: str) -> bool:
    """Whether a path relative to a folder is that of a file which programs keep beside those of the user: in a part
    that begins with a dot, such as `.ipynb_checkpoints`, or in `__MACOSX`."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in path.split("/"))


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
            f"{key} '{uri}' cannot be written ({_brief(error)}). Expected a folder or URI where this user may create "
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


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
