"""Artifacts in storage: a record, and the files beside it that it lists.

An artifact is identified by the URI of its record. `commit` writes the record after the files, so an artifact without
a record is incomplete. `load` verifies the record against a key, and the files against the record. `copy` copies an
artifact from another run's folder. `recover` finds the complete files of a killed run.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from workers import storage
from workers.artifacts import parts
from workers.artifacts.key import Key
from workers.artifacts.kinds import KINDS, Kind, Record
from workers.errors import RequestError, Unreachable

logger = logging.getLogger(__name__)

T = TypeVar("T")
AT_ONCE = 8
"""Number of files that are copied or verified in parallel."""


class NewerFormat(RequestError):
    """A newer version of Stillhouse wrote the file."""

    def __init__(self, uri: str, found: int, known: int) -> None:
        super().__init__(
            f"'{uri}' was made by a newer Stillhouse: format {found}, this one reads {known}. Use that version, or set "
            "another `name` or `storage`."
        )


def commit(
    uri: str, key: Key, files: Mapping[str, str], versions: Mapping[str, str] | None = None, **facts: Any
) -> Record:
    """Write the record of an artifact whose files are complete.

    files: sha256, or its beginning, of each file by its name in the folder of `uri`.
    """
    record = Record(
        format=key.version,
        kind=key.kind,
        key=key.digest,
        files=dict(files),
        what=key.flat(),
        versions=dict(versions or {}),
        facts=facts,
    )
    storage.write_text(uri, record.model_dump_json() + "\n")
    return record


def read(uri: str, kind: Kind) -> Record | None:
    """The record at `uri`, without verification of its files; None where it is missing or invalid.

    Raises: `NewerFormat`.
    """
    content = storage.read_if_there(uri)
    if content is None:
        return None
    try:
        written = json.loads(content)
        check_format(uri, written, kind.version)
        record = kind.record(written)
    except (ValueError, LookupError, TypeError, AttributeError):  # not a record, or not even text
        return None
    return record if record is not None and record.kind == kind.name else None


def check_format(uri: str, written: Mapping[str, Any], known: int) -> None:
    """Raise `NewerFormat` where the JSON from `uri` has a later format than `known`."""
    found = written.get("format")
    if isinstance(found, int) and found > known:
        raise NewerFormat(uri, found, known)


def load(uri: str, key: Key, **facts: Any) -> Record | None:
    """The record at `uri`, if it has this key and these facts and its files match their checksums; else None.

    Raises: `NewerFormat`.
    """
    record = read(uri, KINDS[key.kind])
    if record is None or record.key != key.digest or any(record.facts.get(k) != v for k, v in facts.items()):
        return None
    return record if is_whole(uri, record) else None


def is_whole(uri: str, record: Record) -> bool:
    """Whether all files exist and match their checksums; files of a self-checked kind are verified by their readers."""
    folder = storage.parent(uri)
    if KINDS[record.kind].self_checked:
        return bool(record.files) and record.files.keys() <= set(storage.names(folder))
    return all(_has(storage.join(folder, name), checksum) for name, checksum in record.files.items())


def copy(source: str, target: str, key: Key) -> bool:
    """Copy an artifact's files, then its record, to `target`; False where that was not possible.

    A copy on a local file system is a hard link, and an object store copies without a transfer. The source may be
    deleted meanwhile. Files that are newer than their record, such as those of a copied folder, are verified first,
    since their copies would look unchanged.
    """
    try:
        record = read(source, KINDS[key.kind])
        if record is None or record.key != key.digest or not record.files:
            return False
        unchanged = _unchanged(source, record)
        copy_files(storage.parent(source), storage.parent(target), unchanged)
        if len(unchanged) < len(record.files):
            return False
        storage.copy(source, target)
        if is_whole(target, record):
            return True
        logger.warning("'%s' is not what was written, so it is not reused", source)
        storage.remove(target)
    except Unreachable:
        raise
    except (RequestError, OSError) as error:  # deleted meanwhile, newer format, or not readable
        logger.info("'%s' cannot be reused: %s", source, error)
    return False


def remove_former(uri: str, former: Record | None, record: Record) -> None:
    """Remove the files of an earlier artifact at `uri`, where one path serves several keys. former: its record."""
    for name in () if former is None else former.files:
        if name not in record.files:
            storage.remove(storage.join(storage.parent(uri), name))


def copy_files(source: str, target: str, names: Iterable[str]) -> None:
    """Copy these files of one folder to another of the same storage, in parallel."""

    def copy_one(name: str) -> None:
        storage.copy(storage.join(source, name), storage.join(target, name))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(copy_one, names))


def recover(uri: str, kind: Kind, sizes: Mapping[str, int], parse: Callable[[str, bytes], T]) -> dict[str, T | None]:
    """The complete files of an artifact of a `self_checked` kind, by name; its record at `uri` may be missing.

    A file that has its size in `sizes` and is not newer than the record is not read, and is None in the result. Other
    files are read, and the result has `parse(name, content)`. Files that do not match their checksums are removed with
    a warning.
    """
    folder = storage.parent(uri)
    listed = {entry.name: entry for entry in storage.entries(folder)}
    record = listed.get(posixpath.basename(uri))

    def is_vouched(name: str) -> bool:
        entry = listed[name]
        return record is not None and sizes.get(name) == entry.size and not _later(entry.changed, record.changed)

    def read_now(name: str) -> T | None:
        own = storage.join(folder, name)
        content = storage.read_bytes(own)
        if parts.is_whole(name, content):
            return parse(name, content)
        logger.warning("%s '%s' are not what was written; thrown away and computed again", kind.name, own)
        storage.remove(own)
        return None

    names = [name for _, name, _ in parts.named(listed)]
    unread = [name for name in names if not is_vouched(name)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        parsed = dict(zip(unread, threads.map(read_now, unread), strict=True))
    return {name: parsed.get(name) for name in names if name not in parsed or parsed[name] is not None}


def _has(uri: str, checksum: str) -> bool:
    """Raises: `Unreachable`, since nothing is known of the file then."""
    try:
        return storage.file_sha256(uri).startswith(checksum)
    except Unreachable:
        raise
    except (RequestError, OSError):
        return False


def _unchanged(uri: str, record: Record) -> list[str]:
    """The record's files that exist and are not newer than it, by their times in a listing, or else as it states."""
    folder, own = storage.parent(uri), posixpath.basename(uri)
    listed = {entry.name: entry.changed for entry in storage.entries(folder)}

    def is_unchanged(name: str, checksum: str) -> bool:
        return not _later(listed[name], listed.get(own)) or _has(storage.join(folder, name), checksum)

    return [name for name, checksum in record.files.items() if name in listed and is_unchanged(name, checksum)]


def _later(changed: float | None, sealed: float | None) -> bool:
    return changed is not None and sealed is not None and changed > sealed
