"""The catalogue of artifacts in one storage: a file `artifacts.json` in the folder of each run.

A run looks for an artifact in its own folder first, then in the folders of all other runs. It copies artifacts of
other runs into its own folder. So a run's folder is complete, and any other folder may be deleted. A run writes into
its own folder only, so concurrent runs cannot disturb each other.

Searching a storage costs one listing and one read per folder. A run does it at most once, and only for a missing
artifact. A catalogue may be out of date, so each artifact is compared with its key and its checksums.
"""

from __future__ import annotations

import json
import logging
import posixpath
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from workers import storage
from workers.artifacts import parts, store
from workers.artifacts.key import Key
from workers.artifacts.kinds import KINDS, Record
from workers.artifacts.store import NewerFormat
from workers.errors import RequestError, Unreachable

logger = logging.getLogger(__name__)

FILE = "artifacts.json"
FORMAT = 1
AT_ONCE = 32
"""Number of folders that are read, and of artifacts that are obtained, in parallel."""
Locate = Callable[[str], str]
"""Maps the digest of a key to the path of the artifact's record in a run's folder."""


class Entry(BaseModel):
    """One artifact of a run: its kind, and the path of its record in the run's folder."""

    kind: str
    path: str


class Listed(BaseModel):
    """The content of `artifacts.json`: artifacts by the digests of their keys."""

    format: int = FORMAT
    artifacts: dict[str, Entry] = {}


@dataclass(frozen=True)
class Found:
    """An artifact: its record, and the record's URI. run: the run that it comes from; empty for this run's own."""

    record: Record
    uri: str
    run: str = ""


class Catalogue:
    """The artifacts of the run called `run` in the storage at `root`, and those of the other runs there.

    among: the other runs whose artifacts are reused; None: all. Other runs may reuse those of this run in any case.
    """

    def __init__(self, root: str, run: str, *, among: Collection[str] | None = None) -> None:
        self.folder = storage.join(root, run)
        self._root, self._run, self._among = root, run, among
        self._own = _parsed(self.folder, storage.read_if_there(storage.join(self.folder, FILE))).artifacts
        self._others: dict[str, list[tuple[str, str]]] | None = None
        self._lock = threading.Lock()

    def uri(self, path: str) -> str:
        """The URI of a record, from its path in the run's folder."""
        return storage.join(self.folder, path)

    def obtain(self, key: Key, locate: Locate, **facts: object) -> Found | None:
        """The artifact with this key and these facts, copied into the run's folder; None where no run has it.

        Raises: `NewerFormat` where the run's own folder has it in a newer format.
        """
        path = locate(key.digest)
        record = store.load(self.uri(path), key, **facts) or self._of_earlier_version(key, locate, **facts)
        if record is not None:
            self.register(key, path)
            return Found(record, self.uri(path))
        kind = KINDS[key.kind]
        for run, source in self._elsewhere(key):
            former = None if kind.self_checked else store.read(self.uri(path), kind)
            copied = store.copy(source, self.uri(path), key)
            record = store.load(self.uri(path), key, **facts) if copied else None
            if record is not None:
                store.remove_former(self.uri(path), former, record)
                self.register(key, path)
                return Found(record, self.uri(path), run)
        return None

    def find(self, key: Key, locate: Locate) -> Found | None:
        """The artifact with this key, not copied: it is lost when the run that it comes from is deleted."""
        for run, uri in (("", self.uri(locate(key.digest))), *self._elsewhere(key)):
            try:
                record = store.load(uri, key)
            except Unreachable:
                raise
            except (RequestError, OSError) as error:  # newer format, or not readable
                logger.info("'%s' cannot be reused: %s", uri, error)
            else:
                if record is not None:
                    return Found(record, uri, run)
        return None

    def obtain_all(self, asked: Iterable[tuple[Key, Locate]]) -> list[Found | None]:
        """`obtain` several artifacts in parallel."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(lambda each: self.obtain(*each), asked))

    def lists(self, key: Key) -> bool:
        """Whether any catalogue, as last read, lists the artifact. No file is verified."""
        return key.digest in self._own or any(self._elsewhere(key))

    def register(self, key: Key, path: str) -> None:
        """Let other runs find an artifact of this one."""
        entry = Entry(kind=key.kind, path=path)
        with self._lock:
            if self._own.get(key.digest) != entry:
                self._own = {digest: other for digest, other in self._own.items() if other.path != path}
                self._own[key.digest] = entry
                content = Listed(artifacts=dict(sorted(self._own.items()))).model_dump_json(indent=1)
                storage.write_text(self.uri(FILE), content + "\n")

    def _of_earlier_version(self, key: Key, locate: Locate, **facts: object) -> Record | None:
        """The artifact from the path of an earlier version of Stillhouse in this folder, copied to the current path.

        For a `self_checked` kind only the files are copied, without a record.
        """
        kind, uri, former = KINDS[key.kind], self.uri(locate(key.digest)), self.uri(locate(key.former))
        source, target = storage.parent(former), storage.parent(uri)
        if kind.self_checked:
            if not parts.files(target):
                store.copy_files(source, target, [name for _, name, _ in parts.files(source)])
            return None
        record = store.read(former, kind)
        if record is None or record.key != key.with_also(**facts).former or not store.is_whole(former, record):
            return None
        store.copy_files(source, target, record.files)
        return store.commit(uri, key, record.files, record.versions, **(record.facts | facts))

    def _elsewhere(self, key: Key) -> Iterator[tuple[str, str]]:
        """For every other run that lists the artifact: the run's name, and the record's URI."""
        with self._lock:
            if self._others is None:
                self._others = _others(self._root, self._run, self._among)
        yield from self._others.get(key.digest, ())


def check(folder: str) -> None:
    """Raise `NewerFormat` where a newer version of Stillhouse wrote a folder's catalogue or a record in it."""
    listed = _parsed(folder, storage.read_if_there(storage.join(folder, FILE))).artifacts.values()

    def check_one(entry: Entry) -> None:
        if entry.kind in KINDS and _is_inside(entry.path):
            store.read(storage.join(folder, entry.path), KINDS[entry.kind])

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(check_one, listed))


def note(what: str, found: Sequence[Found | None]) -> str:
    """A note for the user: which artifacts were copied from which runs; empty where none was.

    what: the plural name of the artifacts, such as `members`.
    """
    runs = [each.run for each in found if each is not None and each.run]
    if not runs:
        return ""
    count = f"{len(runs)} of {len(found)} " if len(found) > 1 else ""
    names = sorted(set(runs))
    several = "s" if len(names) > 1 else ""
    return f"reused from run{several} {', '.join(repr(name) for name in names)}: {count}{what}"


def _parsed(folder: str, content: bytes | None) -> Listed:
    """The catalogue of a run's folder from the content of its file; empty where the file is missing or invalid.

    Raises: `NewerFormat`.
    """
    if content is None:
        return Listed()
    try:
        written = json.loads(content)
        store.check_format(storage.join(folder, FILE), written, FORMAT)
        return Listed.model_validate(written)
    except (ValidationError, ValueError, AttributeError):  # some storages expose incomplete writes
        return Listed()


def _others(root: str, own: str, among: Collection[str] | None) -> dict[str, list[tuple[str, str]]]:
    """By an artifact's digest: name of each other run that lists it, and the record's URI. among: as of `Catalogue`."""
    names = [name for name in storage.names(root) if name != own and (among is None or name in among)]

    def read_one(name: str) -> Listed:
        folder = storage.join(root, name)
        try:
            return _parsed(folder, storage.glance(storage.join(folder, FILE)))
        except NewerFormat as error:
            logger.warning("nothing of run '%s' is reused: %s", name, error)
        except Exception as error:  # each storage has its own errors, and the folder may belong to no run
            logger.info("nothing of '%s' is reused: %s", name, error)
        return Listed()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        listed = list(threads.map(read_one, names))
    found: dict[str, list[tuple[str, str]]] = {}
    for name, each in zip(names, listed, strict=True):
        for digest, entry in each.artifacts.items():
            if _is_inside(entry.path):
                found.setdefault(digest, []).append((name, storage.join(root, name, entry.path)))
    return found


def _is_inside(path: str) -> bool:
    """Whether a path from a catalogue stays in the run's folder."""
    return posixpath.normpath(path) == path and not path.startswith(("/", ".."))
