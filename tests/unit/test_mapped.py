"""Large files are mapped: the same rows, and within a machine only the place travels."""

import gzip
import mmap
import pickle
from pathlib import Path

import numpy as np
import pytest

from workers import mapped
from workers.data import Dataset, Split, load
from workers.errors import RequestError, RunError
from workers.inputs import Rows, digest, gather
from workers.mapped import Watched
from workers.specs import DataSpec

X = np.random.default_rng(0).random((50, 3, 4), dtype=np.float32)
Y = np.arange(50) % 5


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAPPED_FROM", 1)


def test_a_mapped_array_is_the_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=Y, x=X)
    for name, there in (("x", X), ("y", Y)):
        found = mapped.array_in_npz(str(tmp_path / "a.npz"), name)
        assert isinstance(found, np.memmap) and found.dtype == there.dtype
        np.testing.assert_array_equal(found, there)
        again = mapped.at(pickle.loads(pickle.dumps(mapped.place(found))))
        np.testing.assert_array_equal(again, there)
        assert isinstance(again, np.memmap) and len(pickle.dumps(mapped.place(found))) < 400


def test_what_cannot_be_mapped_is_not(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "compressed.npz", x=X)
    np.savez(tmp_path / "columns.npz", x=np.asfortranarray(X[:, :, 0]), o=np.array([None]))
    for file, name in (("compressed", "x"), ("columns", "x"), ("columns", "o"), ("columns", "nothing")):
        assert mapped.array_in_npz(str(tmp_path / f"{file}.npz"), name) is None


def test_part_of_a_mapped_array_travels_as_its_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)
    whole = mapped.array_in_npz(str(tmp_path / "a.npz"), "x")
    assert whole is not None
    np.testing.assert_array_equal(mapped.at(mapped.place(whole[10:20])), X[10:20])  # type: ignore[arg-type]


@pytest.mark.usefixtures("everything_is_large")
def test_data_are_the_same_mapped_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez(tmp_path / "test.npz", x=X[:9], y=Y[:9])
    spec = DataSpec(kind="npz", root=str(tmp_path), train="train.npz", test="test.npz", classes=5)
    far = load(spec, 0)
    assert isinstance(far.test.x, Watched) and isinstance(far.test.x.of, np.memmap)
    assert isinstance(far.train.x, Rows)  # of the mapped array, without those held out
    monkeypatch.setattr(mapped, "MAPPED_FROM", 2**60)
    near = load(spec, 0)
    assert far.digests == near.digests and digest(far.test.x) == digest(near.test.x)
    rows = np.array([5, 0, 5, 8])
    assert (gather(far.test.x, rows) == gather(near.test.x, rows)).all()


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_a_large_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.npz").write_bytes(content)
    np.savez(tmp_path / "test.npz", x=X, y=Y)
    with pytest.raises(RequestError, match=r"train\.npz"):
        load(DataSpec(kind="npz", root=str(tmp_path), train="train.npz", test="test.npz"), 0)


@pytest.mark.usefixtures("small_ray")
@pytest.mark.parametrize(("address", "in_place"), [("", True), ("127.0.0.1:1", False)])
def test_what_is_mapped_travels_as_its_place_within_a_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, in_place: bool
) -> None:
    import ray

    from orchestrator import cluster

    @ray.remote
    def seen(data: Dataset) -> tuple[bool, float]:
        assert isinstance(data.train.x, np.ndarray)
        return isinstance(data.train.x.base, mmap.mmap), float(data.train.x.sum())

    monkeypatch.setenv("RAY_ADDRESS", address)
    np.savez(tmp_path / "a.npz", x=X)
    x = mapped.array_in_npz(str(tmp_path / "a.npz"), "x")
    assert x is not None
    split = Split(x, Y)
    assert ray.get(seen.remote(cluster.share(Dataset(split, split, split, None, 5)))) == (in_place, float(X.sum()))


def test_what_the_file_does_not_hold_as_it_is_travels_as_its_values(tmp_path: Path) -> None:
    np.save(tmp_path / "columns.npy", np.asfortranarray(X[:, :, 0]))
    columns = np.load(tmp_path / "columns.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped.at(mapped.place(columns)), X[:, :, 0])
    np.save(tmp_path / "rows.npy", X)
    changed = np.load(tmp_path / "rows.npy", mmap_mode="c")
    changed -= 1.0
    np.testing.assert_array_equal(mapped.at(mapped.place(changed)), X - np.float32(1.0))


def test_a_file_that_was_changed_since_is_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    place = mapped.place(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.save(tmp_path / "x.npy", X[:40])
    with pytest.raises(RunError, match=r"x\.npy' has changed"):
        mapped.at(place)


@pytest.mark.usefixtures("everything_is_large")
def test_a_compressed_archive_is_read_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=X, y=Y)
    (tmp_path / "train.npz.gz").write_bytes(gzip.compress((tmp_path / "test.npz").read_bytes()))
    np.savez(tmp_path / "test.npz", x=X[:10], y=Y[:10])
    data = load(DataSpec(kind="npz", root=str(tmp_path), train="train.npz.gz", test="test.npz"), 0)
    assert len(data.train) + len(data.validation) == len(X)
