"""Artifacts in one storage: complete or not there, found by key in every run's folder, never taken for right."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.run_folder import paths
from workers import storage
from workers.artifacts import catalogue, parts, store
from workers.artifacts.catalogue import Catalogue, Found
from workers.artifacts.key import Key
from workers.artifacts.kinds import LOGITS, NETWORK, PREDICTIONS, SOFT_TARGETS, Kind, Record
from workers.artifacts.store import NewerFormat
from workers.errors import Unreachable

KEY = NETWORK.key(seed=1, training={"epochs": 2})


def committed(root: Path, run: str, data: bytes = b"weights", key: Key = KEY, **facts: Any) -> Catalogue:
    """A run in a storage that has an artifact of one file."""
    own = Catalogue(str(root), run)
    uri = own.uri(paths.network(key.digest))
    storage.write_bytes(storage.join(storage.parent(uri), "model.safetensors"), data)
    store.commit(uri, key, {"model.safetensors": storage.sha256(data)}, **facts)
    own.register(key, paths.network(key.digest))
    return own


def weights(root: Path, run: str) -> Path:
    return root / run / "trained" / KEY.digest / "model.safetensors"


def obtain(root: Path, run: str = "new", **facts: Any) -> Found | None:
    return Catalogue(str(root), run).obtain(KEY, paths.network, **facts)


def change_record(root: Path, run: str, **values: Any) -> None:
    path = weights(root, run).with_name("training.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_artifact_without_its_record_is_not_there(tmp_path: Path) -> None:
    own = committed(tmp_path, "a")
    assert own.obtain(KEY, paths.network) is not None
    weights(tmp_path, "a").with_name("training.json").unlink()
    assert own.obtain(KEY, paths.network) is None


@pytest.mark.parametrize("spoil", [b"weight?", b"", None])
def test_files_that_are_not_what_was_written_do_not_count(spoil: bytes | None, tmp_path: Path) -> None:
    own, path = committed(tmp_path, "a"), weights(tmp_path, "a")
    path.unlink() if spoil is None else path.write_bytes(spoil)
    assert own.obtain(KEY, paths.network) is None
    assert obtain(tmp_path) is None and not weights(tmp_path, "new").with_name("training.json").exists()


def test_another_runs_artifact_becomes_ones_own_at_no_bytes(tmp_path: Path) -> None:
    committed(tmp_path, "a", history=[1])
    found = obtain(tmp_path)
    assert found is not None and found.run == "a" and found.record.facts == {"history": [1]}
    assert weights(tmp_path, "a").samefile(weights(tmp_path, "new"))
    shutil.rmtree(tmp_path / "a")  # by its user
    again = obtain(tmp_path)
    assert again is not None and again.run == "" and weights(tmp_path, "new").read_bytes() == b"weights"
    third = obtain(tmp_path, "third")
    assert third is not None and third.run == "new"


def test_what_was_deleted_or_damaged_meanwhile_is_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("a", "b", "c"):
        committed(tmp_path, run)
    own = Catalogue(str(tmp_path), "new")
    assert own.lists(KEY)
    shutil.rmtree(tmp_path / "a")
    weights(tmp_path, "b").write_bytes(b"weight?")
    found = own.obtain(KEY, paths.network)
    assert found is not None and found.run == "c"
    shutil.rmtree(tmp_path / "new")

    def vanish(source: str, target: str) -> None:
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        raise FileNotFoundError(source)

    monkeypatch.setattr(storage, "copy", vanish)
    assert obtain(tmp_path) is None


def test_a_run_that_starts_over_takes_nothing_of_earlier_ones_and_gives(tmp_path: Path) -> None:
    committed(tmp_path, "a")
    assert Catalogue(str(tmp_path), "new", among={"b"}).obtain(KEY, paths.network) is None
    committed(tmp_path, "new")
    shutil.rmtree(tmp_path / "a")
    found = obtain(tmp_path, "third")
    assert found is not None and found.run == "new"


def test_facts_that_differ_make_it_another(tmp_path: Path) -> None:
    committed(tmp_path, "a", content="1")
    assert obtain(tmp_path, content="2") is None
    assert obtain(tmp_path, content="1") is not None


def test_a_newer_format_is_refused_by_name_and_an_older_one_does_not_count(tmp_path: Path) -> None:
    own = committed(tmp_path, "a")
    change_record(tmp_path, "a", format=NETWORK.version + 1)
    message = f"training.json' was made by a newer Stillhouse: format {NETWORK.version + 1}, this one reads 3"
    with pytest.raises(NewerFormat, match=message) as refused:
        catalogue.check(own.folder)
    assert refused.value.exit_status == 2
    with pytest.raises(NewerFormat, match=message):
        own.obtain(KEY, paths.network)
    assert obtain(tmp_path) is None, "nor is it taken from another run"
    for older in (1, 2):
        change_record(tmp_path, "a", format=older)
        catalogue.check(own.folder)
        assert own.obtain(KEY, paths.network) is None


def test_a_newer_catalogue_is_refused_in_ones_own_folder_and_passed_over_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = committed(tmp_path, "a")
    (tmp_path / "a/artifacts.json").write_text('{"format": 9}')
    with pytest.raises(NewerFormat, match=r"artifacts.json' was made by a newer Stillhouse: format 9"):
        catalogue.check(own.folder)
    assert obtain(tmp_path) is None and "nothing of run 'a' is reused" in caplog.text


def test_a_copy_takes_the_place_of_what_was_at_its_path(tmp_path: Path) -> None:
    """As of predictions, of which a system has one record, whatever their key."""
    place, files = "predictions/student-test.json", {}
    for run in ("a", "b"):
        key, own = PREDICTIONS.key(of=run), Catalogue(str(tmp_path), run)
        files[run] = tmp_path / run / "predictions" / f"student-test-{key.digest}.safetensors"
        storage.write_bytes(str(files[run]), run.encode())
        store.commit(own.uri(place), key, {files[run].name: storage.sha256(run.encode())})
        own.register(key, place)
    found = Catalogue(str(tmp_path), "b").obtain(PREDICTIONS.key(of="a"), lambda digest: place)
    assert found is not None and found.run == "a"
    kept = {path.name for path in (tmp_path / "b" / "predictions").iterdir()}
    assert kept == {"student-test.json", files["a"].name}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"artifacts": 3}', '{"artifacts": {"x": {"path": 1}}}'])
def test_a_catalogue_that_is_none_is_as_if_it_were_not_there(content: str, tmp_path: Path) -> None:
    committed(tmp_path, "a")
    (tmp_path / "a/artifacts.json").write_text(content)
    (tmp_path / "notes.txt").write_text("no run's folder")
    assert obtain(tmp_path) is None and Catalogue(str(tmp_path), "a").obtain(KEY, paths.network) is not None


@pytest.mark.parametrize("path", ["../secret/training.json", "/etc/passwd", "x/../../secret/training.json"])
def test_a_catalogue_does_not_lead_out_of_its_folder(path: str, tmp_path: Path) -> None:
    committed(tmp_path, "a")
    shutil.copytree(weights(tmp_path, "a").parent, tmp_path / "secret")
    listed = {"format": 1, "artifacts": {KEY.digest: {"kind": "network", "path": path}}}
    (tmp_path / "a/artifacts.json").write_text(json.dumps(listed))
    assert obtain(tmp_path) is None


def test_runs_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each commits, obtains and is deleted again and again; what one obtains is whole."""
    ended = threading.Event()
    wrong: list[object] = []

    def work(run: str) -> None:
        while not ended.is_set():
            committed(tmp_path, run)
            shutil.rmtree(tmp_path / run)
            found = obtain(tmp_path, run)
            if found is not None and weights(tmp_path, run).read_bytes() != b"weights":
                wrong.append(found)

    def guarded(run: str) -> None:
        try:
            work(run)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=guarded, args=(run,)) for run in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_note_a_kind_names_the_runs() -> None:
    record = Record(format=3, kind="network", key="0" * 16, files={})
    found = [Found(record, "", run) if run is not None else None for run in ("b", None, "a", "", "a")]
    assert catalogue.note("members", found) == "reused from runs 'a', 'b': 3 of 5 members"
    assert catalogue.note("the student", [Found(record, "", "a")]) == "reused from run 'a': the student"
    assert catalogue.note("members", [Found(record, ""), None]) == ""


# --- files that carry their checksum ------------------------------------------------------------------------


def pieces(root: Path, run: str, kind: Kind = LOGITS, count: int = 3) -> tuple[Catalogue, Key, Path]:
    own, key = Catalogue(str(root), run), kind.key(seed=1)
    uri = own.uri(paths.logits(key.digest))
    folder = storage.parent(uri)
    files = {}
    for number in range(count):
        name, checksum, _ = parts.write_file(folder, number, pa.table({"x": [number]}))
        files[name] = checksum[:16]
    store.commit(uri, key, files)
    own.register(key, paths.logits(key.digest))
    return own, key, Path(folder)


def test_of_such_files_those_that_are_there_are_copied(tmp_path: Path) -> None:
    own, key, folder = pieces(tmp_path, "a")
    names = sorted(path.name for path in folder.glob("*.parquet"))
    time.sleep(0.05)  # file systems tell moments apart by some milliseconds
    (folder / names[0]).write_bytes(b"damaged")
    (folder / names[1]).unlink()
    assert Catalogue(str(tmp_path), "new").obtain(key, paths.logits) is None
    copied = tmp_path / "new/logits" / key.digest
    assert [path.name for path in copied.iterdir()] == [names[2]], "no record, and nothing that changed after it"
    assert own.obtain(key, paths.logits) is None, "a file is missing"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_folder_that_was_copied_in_any_order_is_reused(damaged: bool, tmp_path: Path) -> None:
    """`cp -r` and uploads give times of their own, so files may look newer than their record."""
    committed(tmp_path, "a")
    _, key, folder = pieces(tmp_path, "a")
    later = time.time() + 60
    for path in (weights(tmp_path, "a"), *folder.glob("*.parquet")):
        if damaged:
            path.write_bytes(b"damaged")
        os.utime(path, (later, later))
    own = Catalogue(str(tmp_path), "new")
    found = [own.obtain(KEY, paths.network), own.obtain(key, paths.logits)]
    assert [each is not None and each.run == "a" for each in found] == [not damaged] * 2


def test_what_is_left_where_it_is_vanishes_with_its_run(tmp_path: Path) -> None:
    _, key, folder = pieces(tmp_path, "a")
    new = Catalogue(str(tmp_path), "new")
    found = new.find(key, paths.logits)
    assert found is not None and found.run == "a" and Path(found.uri).parent == folder
    assert not (tmp_path / "new").exists()
    shutil.rmtree(tmp_path / "a")
    assert new.find(key, paths.logits) is None


def test_what_a_killed_run_left_is_recovered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pieces(tmp_path, "a")[2]
    record = folder / "logits.json"
    names = sorted(path.name for path in folder.glob("*.parquet"))
    sizes = {name: (folder / name).stat().st_size for name in names}

    def recover() -> dict[str, int | None]:
        return store.recover(str(record), LOGITS, sizes, lambda name, content: len(content))

    assert recover() == dict.fromkeys(names), "none is read that the record states"
    record.unlink()
    assert recover() == sizes, "each is read, and tells by its name that it is whole"
    (folder / names[1]).write_bytes(b"damaged")
    assert recover() == {names[0]: sizes[names[0]], names[2]: sizes[names[2]]}
    assert "logits" in caplog.text and "thrown away" in caplog.text and not (folder / names[1]).exists()


# --- folders of an earlier version --------------------------------------------------------------------------


def former(**what: Any) -> str:
    """A fingerprint as Stillhouse gave them before kinds had versions of their own."""
    return hashlib.sha256(json.dumps({"format": 2, **what}, sort_keys=True).encode()).hexdigest()[:16]


def earlier(root: Path, data: bytes = b"weights", **also: str) -> Path:
    """The folder of a network as an earlier version wrote it.

    also: is in its fingerprint, and not in the name of its folder.
    """
    what = {"seed": 1, "training": {"epochs": 2}}
    folder = root / "a/trained" / former(**what)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(data)
    record = {
        "format": 2,
        "fingerprint": former(**what, **also),
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "history": [{"epoch": 0}],
        "inputs": {"seed": "1", "training.epochs": "2"},
        "versions": {"torch": "2"},
    }
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def test_a_network_of_an_earlier_version_is_found_by_its_new_key(tmp_path: Path) -> None:
    folder = earlier(tmp_path)
    found = obtain(tmp_path, "a")
    assert found is not None and found.run == "" and found.record.facts == {"history": [{"epoch": 0}]}
    assert found.record.format == NETWORK.version and found.record.versions == {"torch": "2"}
    assert weights(tmp_path, "a").samefile(folder / "model.safetensors")
    other = obtain(tmp_path, "b")
    assert other is not None and other.run == "a"


def test_a_student_of_an_earlier_version_must_have_learned_from_the_same(tmp_path: Path) -> None:
    earlier(tmp_path, content="x")
    for content, counts in (("y", False), ("x", True), ("y", False), ("x", True)):
        assert (obtain(tmp_path, "a", content=content) is not None) == counts


def test_what_is_damaged_in_an_earlier_folder_does_not_count(tmp_path: Path) -> None:
    earlier(tmp_path, b"weight?")
    assert obtain(tmp_path, "a") is None


def test_parts_of_an_earlier_version_are_copied_to_be_verified(tmp_path: Path) -> None:
    own, key = Catalogue(str(tmp_path), "a"), SOFT_TARGETS.key(temperature=2.0)
    old = tmp_path / "a/soft_targets" / former(temperature=2.0)
    name, _, _ = parts.write_file(str(old), 0, pa.table({"x": [1]}))
    assert own.obtain(key, paths.soft_targets) is None
    assert (tmp_path / "a/soft_targets" / key.digest / name).samefile(old / name)


# --- an object store that takes its time --------------------------------------------------------------------


class Slow(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Each call takes `DELAY_S`, however many there are at a time."""

    protocol = "slow"
    DELAY_S = 0.0
    calls: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.replace("slow://", "memory://"))
        return stripped


def delayed(name: str) -> Callable[..., Any]:
    method = getattr(MemoryFileSystem, name)

    def call(self: Slow, *arguments: Any, **named: Any) -> Any:
        Slow.calls.append(name)
        time.sleep(Slow.DELAY_S)
        return method(self, *arguments, **named)

    return call


@pytest.fixture
def slow() -> Iterator[str]:
    for name in ("ls", "cat_file", "_open", "pipe_file", "cp_file", "rm"):
        setattr(Slow, name, delayed(name))
    fsspec.register_implementation("slow", Slow, clobber=True)
    yield "slow://runs"
    Slow.DELAY_S = 0.0
    Slow.store.clear()


def test_looking_through_a_thousand_runs_takes_a_call_each_and_seconds(slow: str) -> None:
    digests = [f"{number:016x}" for number in range(1000)]
    for number, digest in enumerate(digests):
        entry = {"kind": "network", "path": f"trained/{digest}/training.json"}
        Slow().pipe_file(
            f"slow://runs/run-{number}/artifacts.json", json.dumps({"artifacts": {digest: entry}}).encode()
        )
    own, asked = Catalogue(slow, "new"), [(NETWORK.key(seed=seed), paths.network) for seed in range(10)]
    Slow.calls.clear()
    Slow.DELAY_S = 0.05
    began = time.monotonic()
    assert own.obtain_all(asked) == [None] * 10
    took_s = time.monotonic() - began
    assert len(Slow.calls) <= 1000 + 1 + 2 * len(asked)
    assert took_s < 10, "1.7 s on an idle machine"
    Slow.calls.clear()
    own.obtain_all(asked)
    assert len(Slow.calls) == 2 * len(asked), "other runs are looked at once"


def test_a_copy_on_an_object_store_needs_no_other_run(slow: str) -> None:
    own, key = Catalogue(slow, "a"), KEY
    uri = own.uri(paths.network(key.digest))
    storage.write_bytes(storage.join(storage.parent(uri), "model.safetensors"), b"weights")
    store.commit(uri, key, {"model.safetensors": storage.sha256(b"weights")})
    own.register(key, paths.network(key.digest))
    found = Catalogue(slow, "b").obtain(key, paths.network)
    assert found is not None and found.run == "a"
    storage.remove(own.folder)
    again = Catalogue(slow, "b").obtain(key, paths.network)
    assert again is not None and again.run == ""


def test_hard_links_keep_the_time_of_the_last_write(tmp_path: Path) -> None:
    """A manifest vouches for parts that are older than it; a link must not make a damaged part look older."""
    (tmp_path / "a").write_bytes(b"1")
    os.utime(tmp_path / "a", (1, 2))
    storage.copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").stat().st_mtime == 2


def test_an_outage_is_no_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is complete would be computed again."""
    own = committed(tmp_path, "one")
    other = Catalogue(str(tmp_path), "two")

    def fails(uri: str) -> str:
        raise Unreachable(f"'{uri}': cannot be accessed")

    monkeypatch.setattr(storage, "file_sha256", fails)
    for run in (own, other):
        with pytest.raises(Unreachable):
            run.obtain(KEY, paths.network)
        with pytest.raises(Unreachable):
            run.find(KEY, paths.network)
