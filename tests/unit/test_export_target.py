"""Where an export is written: whole or not at all, and never over files of another origin."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from orchestrator.export import target
from workers import storage
from workers.errors import RequestError


def made(folder: Path, *names: str) -> Path:
    """A local export with these files."""
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / target.RECORD).write_text(json.dumps({target.FILES: {name: "0" for name in names}}))
    return folder


@pytest.fixture(params=["disk", "file URI", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "exports" / "digits")
        return
    if request.param == "file URI":
        yield (tmp_path / "exports" / "digits").as_uri()
        return
    place = f"memory://{tmp_path.name}/digits"
    yield place
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True) if storage.exists(place) else None


def write(uri: str, source: Path) -> None:
    target.check(uri)
    with target.written(uri, source):
        pass


def test_an_export_replaces_an_earlier_one_and_leaves_none_of_its_files(uri: str, tmp_path: Path) -> None:
    write(uri, made(tmp_path / "one", "model.onnx", "code/nets.py"))
    assert storage.files_below(uri) == ["code/nets.py", target.RECORD, "model.onnx"]
    write(uri, made(tmp_path / "two", "model.safetensors"))
    assert storage.files_below(uri) == [target.RECORD, "model.safetensors"]


def test_an_export_that_was_imported_is_replaced_with_its_bytecode(uri: str, tmp_path: Path) -> None:
    write(uri, made(tmp_path / "one", "load.py", "code/nets.py"))
    for path in ("__pycache__/load.cpython-311.pyc", "code/__pycache__/nets.cpython-311.pyc"):
        storage.write_text(storage.join(uri, path), "bytecode")
    write(uri, made(tmp_path / "two", "load.py"))
    assert storage.files_below(uri) == [target.RECORD, "load.py"]
    storage.write_text(storage.join(other := storage.join(storage.parent(uri), "other"), "__pycache__/a.pyc"), "mine")
    with pytest.raises(RequestError, match="which no export wrote"):
        target.check(other)


def test_files_of_another_origin_are_not_replaced(uri: str, tmp_path: Path) -> None:
    write(uri, made(tmp_path / "one", "model.onnx"))
    storage.write_text(storage.join(uri, "notes.txt"), "mine")
    with pytest.raises(RequestError, match=r"notes\.txt"):
        target.check(uri)
    other = storage.join(storage.parent(uri), "other")
    storage.write_text(storage.join(other, "model.onnx"), "mine")
    with pytest.raises(RequestError, match="which no export wrote"):
        target.check(other)
    with pytest.raises(RequestError, match="is a file"):
        target.check(storage.join(other, "model.onnx"))


def test_a_failure_after_writing_leaves_nothing(uri: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), target.written(uri, made(tmp_path / "one", "model.onnx")):
        raise RuntimeError("the registry is gone")
    assert storage.files_below(uri) == []
    assert not (tmp_path / "exports").exists()


def test_a_failure_brings_the_earlier_export_back_on_a_disk(tmp_path: Path) -> None:
    uri = str(tmp_path / "digits")
    write(uri, made(tmp_path / "one", "model.onnx"))
    with pytest.raises(RuntimeError), target.written(uri, made(tmp_path / "two", "model.safetensors")):
        raise RuntimeError("the registry is gone")
    assert storage.files_below(uri) == [target.RECORD, "model.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "one", "two"]


def test_a_failed_upload_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"memory://{tmp_path.name}-failed/digits"
    write_bytes = storage.write_bytes

    def failing(place: str, content: bytes, patient: bool = True) -> None:
        if place.endswith("model.onnx"):
            raise OSError("no space")
        write_bytes(place, content, patient)

    monkeypatch.setattr(storage, "write_bytes", failing)
    with pytest.raises(OSError), target.written(uri, made(tmp_path / "one", "a.txt", "model.onnx")):
        pass
    assert storage.files_below(uri) == []


@pytest.mark.parametrize("step", ["copytree", "rmtree"])
def test_an_interruption_never_takes_the_only_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before the copy of the new one begins, and while the earlier one is removed."""
    uri = str(tmp_path / "digits")
    write(uri, made(tmp_path / "one", "model.onnx"))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target.shutil, step, interrupted)
    with pytest.raises(KeyboardInterrupt), target.written(uri, made(tmp_path / "two", "model.safetensors")):
        pass
    assert storage.files_below(uri) == [target.RECORD, {"copytree": "model.onnx", "rmtree": "model.safetensors"}[step]]


def test_a_target_behind_a_link_is_replaced_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write(str(tmp_path / "disk/digits"), made(tmp_path / "one", "model.onnx"))
    (tmp_path / "link").symlink_to(tmp_path / "disk/digits")
    write(str(tmp_path / "link"), made(tmp_path / "two", "model.safetensors"))
    assert (tmp_path / "link").is_symlink()
    assert storage.files_below(str(tmp_path / "disk/digits")) == [target.RECORD, "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link", "one", "two"]


def test_a_record_that_names_files_elsewhere_removes_none_of_them(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}-elsewhere"
    storage.write_text(f"{place}/precious.txt", "mine")
    storage.write_text(f"{place}/digits/{target.RECORD}", json.dumps({target.FILES: {"../precious.txt": "0"}}))
    write(f"{place}/digits", made(tmp_path / "one", "model.onnx"))
    assert storage.files_below(place) == [f"digits/{target.RECORD}", "digits/model.onnx", "precious.txt"]
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}-elsewhere", recursive=True)


def test_a_killed_upload_is_replaced_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, write_bytes = f"memory://{tmp_path.name}-killed/digits", storage.write_bytes
    write(uri, made(tmp_path / "one", "model.onnx"))
    with monkeypatch.context() as killed:

        def write_some(place: str, content: bytes, patient: bool = True) -> None:
            if place.endswith("model.safetensors"):
                killed.setattr(target, "_remove_there", lambda *_: None)  # a killed process removes nothing
                raise KeyboardInterrupt
            write_bytes(place, content, patient)

        killed.setattr(storage, "write_bytes", write_some)
        with pytest.raises(KeyboardInterrupt), target.written(uri, made(tmp_path / "two", "a.py", "model.safetensors")):
            pass
    assert storage.files_below(uri) == ["a.py", target.UNFINISHED]
    write(uri, made(tmp_path / "three", "model.onnx"))
    assert storage.files_below(uri) == [target.RECORD, "model.onnx"]
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}-killed", recursive=True)


def test_what_a_killed_export_left_on_a_disk_is_restored_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, left = tmp_path / "digits", f".digits.{'0' * 32}"
    write(str(uri), made(tmp_path / "one", "model.onnx"))
    (tmp_path / f"{left}.partial").mkdir()
    (tmp_path / ".digits.mine.earlier").mkdir()
    uri.rename(tmp_path / f"{left}.earlier")
    target.check(str(uri))
    assert not uri.exists(), "it may be of an export that still runs"
    monkeypatch.setattr(target, "ABANDONED_S", -1.0)
    target.check(str(uri))
    assert storage.files_below(str(uri)) == [target.RECORD, "model.onnx"]
    (tmp_path / f"{left}.earlier").mkdir()
    target.check(str(uri))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".digits.mine.earlier", "digits", "one"]


def test_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda place: place == tmp_path)
    with pytest.raises(RequestError, match="is a mount point"):
        target.check(str(tmp_path))
    target.check(str(tmp_path / "digits"))
