"""A storage that is elsewhere, and does not always do what it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from workers import storage

BASE = "flaky://folder"


class Flaky(MemoryFileSystem):
    """Fails as often as it is told."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    failures = 0
    error: type[Exception] = OSError

    def _may_fail(self) -> None:
        if Flaky.failures:
            Flaky.failures -= 1
            raise Flaky.error("please reduce your request rate")

    def info(self, path: str, **kwargs: Any) -> Any:
        self._may_fail()
        return super().info(path, **kwargs)

    def exists(self, path: str, **kwargs: Any) -> bool:
        self._may_fail()
        return bool(super().exists(path, **kwargs))

    def isdir(self, path: str) -> bool:
        self._may_fail()
        return bool(super().isdir(path))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._may_fail()
        return super().ls(path, detail=detail, **kwargs)

    def _open(self, path: str, *arguments: Any, **kwargs: Any) -> Any:
        self._may_fail()
        return super()._open(path, *arguments, **kwargs)


@pytest.fixture(autouse=True)
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(storage, "BACK_OFF_S", (0.0,) * 5)
    Flaky.failures, Flaky.error = 0, OSError
    storage.write_text(f"{BASE}/file", "content")
    yield
    Flaky.failures = 0
    storage.remove(BASE)


OPERATIONS: list[tuple[Callable[[], Any], Any]] = [
    (lambda: storage.read_text(f"{BASE}/file"), "content"),
    (lambda: storage.write_text(f"{BASE}/file", "content"), None),
    (lambda: storage.exists(f"{BASE}/file"), True),
    (lambda: storage.is_folder(BASE), True),
    (lambda: storage.names(BASE), ["file"]),
    (lambda: [(entry.name, entry.size) for entry in storage.entries(BASE)], [("file", 7)]),
    (lambda: storage.size(f"{BASE}/file"), 7),
    (lambda: storage.remove(f"{BASE}/file"), None),
]


@pytest.mark.parametrize(("ask", "expected"), OPERATIONS)
def test_a_storage_that_fails_is_asked_again(ask: Callable[[], Any], expected: Any) -> None:
    Flaky.failures = 2
    assert ask() == expected and Flaky.failures == 0


def test_it_is_not_asked_for_ever() -> None:
    Flaky.failures = 100
    with pytest.raises(OSError, match="request rate"):
        storage.names(BASE)
    assert Flaky.failures == 100 - 1 - len(storage.BACK_OFF_S)


def test_what_is_forbidden_is_asked_once() -> None:
    Flaky.failures, Flaky.error = 100, PermissionError
    with pytest.raises(PermissionError):
        storage.exists(f"{BASE}/file")
    assert Flaky.failures == 99


def test_a_listing_says_what_a_file_is_and_when_it_was_written(tmp_path: Path) -> None:
    for folder in (BASE, str(tmp_path)):
        began_s = time.time()
        storage.write_text(f"{folder}/file", "content")
        storage.write_text(f"{folder}/below/other", "")
        (entry,) = storage.entries(folder)
        assert (entry.name, entry.size) == ("file", 7)
        assert entry.changed is not None and abs(entry.changed - began_s) < 60
        assert storage.names(folder) == ["below", "file"]
        for nothing in ("nowhere", "file"):
            assert storage.entries(f"{folder}/{nothing}") == storage.names(f"{folder}/{nothing}") == []


def test_times_are_understood_as_each_storage_writes_them() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for info in ({"LastModified": moment}, {"updated": "2026-01-02T03:04:05.000Z"}, {"mtime": moment.timestamp()}):
        assert storage._changed(info) == moment.timestamp()
    assert storage._changed({"updated": "yesterday"}) is None and storage._changed({}) is None
