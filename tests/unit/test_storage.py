"""A storage that is elsewhere, and does not always do what it is asked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from workers import storage
from workers.errors import RequestError
from workers.storage import listing, reading, retries

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

    def find(self, path: str, *arguments: Any, **kwargs: Any) -> Any:
        self._may_fail()
        return super().find(path, *arguments, **kwargs)

    def cat_file(self, path: str, **kwargs: Any) -> bytes:
        self._may_fail()
        return bytes(super().cat_file(path, **kwargs))

    def _open(self, path: str, *arguments: Any, **kwargs: Any) -> Any:
        self._may_fail()
        return super()._open(path, *arguments, **kwargs)


@pytest.fixture(autouse=True)
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(retries, "BACK_OFF_S", (0.0,) * 5)
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
    with pytest.raises(RequestError, match=r"'flaky://folder': cannot be accessed \(OSError: .*request rate\)"):
        storage.names(BASE)
    assert Flaky.failures == 100 - 1 - len(retries.BACK_OFF_S)


class EndpointConnectionError(Exception):
    """As of botocore, which is no OSError."""


@pytest.mark.parametrize(
    "ask",
    [*(ask for ask, _ in OPERATIONS), lambda: storage.identity(f"{BASE}/file"), lambda: storage.files_below(BASE)],
)
def test_a_storage_that_cannot_be_reached_is_named(ask: Callable[[], Any]) -> None:
    Flaky.failures, Flaky.error = 100, EndpointConnectionError
    with pytest.raises(RequestError, match=r"^'flaky://folder.*cannot be accessed \(EndpointConnectionError.*Check"):
        ask()


def test_a_file_is_known_without_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(fs: Flaky, path: str) -> bool:
        raise PermissionError(path)

    storage.write_text(f"{BASE}/inner.csv/part.csv", "content")
    assert storage.is_folder(f"{BASE}/inner.csv") and not storage.is_folder(f"{BASE}/gone.csv")
    with monkeypatch.context() as patched:
        patched.setattr(Flaky, "isdir", denied)
        assert not storage.is_folder(f"{BASE}/inner.csv/part.csv")
        with pytest.raises(RequestError, match="no access"):
            storage.is_folder(BASE)


def test_a_folder_with_a_dot_in_its_name_is_not_asked_for_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP calls each address that answers a file, also a folder's."""
    storage.write_text(f"{BASE}/bert-v1.0/config.json", "{}")
    monkeypatch.setattr(Flaky, "isfile", lambda fs, path: True)
    assert storage.is_folder(f"{BASE}/bert-v1.0") and not storage.is_folder(f"{BASE}/bert-v1.0/config.json")


def test_what_is_forbidden_is_asked_once() -> None:
    Flaky.failures, Flaky.error = 100, PermissionError
    with pytest.raises(RequestError, match=r"'flaky://folder/file': no access .PermissionError"):
        storage.exists(f"{BASE}/file")
    assert Flaky.failures == 99


class NoCredentialsError(Exception):
    """As of botocore, which is no OSError."""


@pytest.mark.parametrize("ask", [ask for ask, _ in OPERATIONS if ask is not OPERATIONS[-1][0]])
def test_missing_credentials_are_a_wrong_request_and_not_waited_for(ask: Callable[[], Any]) -> None:
    Flaky.failures, Flaky.error = 100, NoCredentialsError
    with pytest.raises(RequestError, match=r"'flaky://folder.*no access .*NoCredentialsError.*credentials of the"):
        ask()
    assert Flaky.failures == 99


def test_what_cannot_be_read_is_a_wrong_request_whatever_the_storage_raises() -> None:
    Flaky.failures, Flaky.error = 100, TypeError
    with pytest.raises(RequestError, match=r"folder/file': cannot be accessed .TypeError: please"):
        storage.read_if_there(f"{BASE}/file")


@pytest.mark.parametrize("name", ["a::b", "s3://b", "memory::c", "a b#?%20é", "~"])
def test_local_paths_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    """fsspec reads `::` as a chain: it would write, and remove, the folder `a` instead."""
    folder = f"{tmp_path}/{name}/runs"
    for place in (folder, f"file://{folder}"):
        storage.write_text(f"{place}/file", "content")
        assert (tmp_path / name / "runs" / "file").read_text() == "content"
        assert storage.read_text(f"{place}/file") == "content" and storage.names(place) == ["file"]
        storage.remove(place)
        assert not (tmp_path / name / "runs").exists() and (tmp_path / name).exists()
    assert not storage.is_uri(folder) and storage.absolute(folder) == str(tmp_path / name / "runs")


def test_uris_of_relative_local_paths_do_not_depend_on_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for protocol in storage.LOCAL:
        assert storage.absolute(f"{protocol}runs") == f"{tmp_path}/runs"
        assert storage.absolute(f"{protocol}runs", "/data") == "/data/runs"
        assert storage.absolute(f"{protocol}~/runs", "s3://bucket") == "/home/someone/runs"
        assert storage.absolute(f"{protocol}/a/b c") == f"{protocol}/a/b c"
        assert storage.local_path(f"{protocol}/a/b c") == Path("/a/b c")
    for remote in ("s3://bucket/runs", "simplecache::s3://bucket/runs"):
        assert storage.absolute(remote, "/data") == remote and storage.local_path("s3://bucket/runs") is None


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


def test_a_file_is_hashed_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(250))
    monkeypatch.setattr(reading, "BLOCK", 100)
    for folder in (BASE, str(tmp_path)):
        storage.write_bytes(f"{folder}/hashed", content)
        assert storage.file_sha256(f"{folder}/hashed") == hashlib.sha256(content).hexdigest()
        with pytest.raises(RequestError, match="nowhere': no such file"):
            storage.file_sha256(f"{folder}/nowhere")
    with open(tmp_path / "hashed", "rb") as file:
        assert [len(block) for block in storage.blocks(file)] == [100, 100, 50]


def test_times_are_understood_as_each_storage_writes_them() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for info in ({"LastModified": moment}, {"updated": "2026-01-02T03:04:05.000Z"}, {"mtime": moment.timestamp()}):
        assert listing._changed(info) == moment.timestamp()
    assert listing._changed({"updated": "yesterday"}) is None and listing._changed({}) is None


@pytest.mark.parametrize(("ending", "package"), [(".zst", "backports.zstd"), (".lz4", "lz4")])
def test_a_compression_without_its_package_is_refused(
    ending: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(fsspec.utils.compressions, ending[1:], raising=False)
    path = f"{tmp_path}/a.CSV{ending}"
    storage.write_bytes(path, b"a,y\n")
    with pytest.raises(RequestError, match=rf"a\.CSV{ending}': reading {ending} needs the package '{package}'"):
        storage.read_bytes(path)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_a_damaged_compression_is_refused(ending: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/a.csv{ending}"
    storage.write_bytes(path, b"a,y\n0,1\n")
    with pytest.raises(RequestError, match=rf"a\.csv{ending}': cannot be read .*check its permissions and that it is"):
        storage.read_bytes(path)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("memory://runs", "each process's own memory"),
        ("sftp://host/runs", "before they are complete"),
        ("simplecache::smb://host/runs", "before they are complete"),
    ],
)
def test_a_storage_that_a_run_cannot_write_to_is_refused(uri: str, why: str) -> None:
    with pytest.raises(
        RequestError, match=rf"^storage '{uri}' .*{why}.*Set `storage` to a folder or to an object store"
    ):
        storage.probe_of_run(uri)


def test_bytes_of_files_folders_and_nothing(tmp_path: Path) -> None:
    for root in (BASE, str(tmp_path)):
        storage.write_text(f"{root}/a/one", "12345")
        storage.write_text(f"{root}/a/b/two", "123")
        found = [storage.bytes_below(f"{root}/{each}") for each in ("a", "a/one", "a/c")]
        assert found == [8, 5, 0]
