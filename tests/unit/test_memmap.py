"""Large files are mapped: the same rows, and within a machine only the place travels."""

import gzip
import mmap
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from workers.data import memmap
from workers.data.arrays import Joined, Room, Rows, digest, gather
from workers.data.column import Column
from workers.data.dataset import Dataset, Split
from workers.data.examples import Columns, arrays_of
from workers.data.loading import load
from workers.data.memmap import Watched
from workers.data.ragged import Ragged
from workers.errors import RequestError, RunError
from workers.specs.data import DataSpec

X = np.random.default_rng(0).random((50, 3, 4), dtype=np.float32)
Y = np.arange(50) % 5


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memmap, "MAPPED_FROM", 1)


def test_a_mapped_array_is_the_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=Y, x=X)
    for name, there in (("x", X), ("y", Y)):
        found = memmap.array_in_npz(str(tmp_path / "a.npz"), name)
        assert isinstance(found, np.memmap) and found.dtype == there.dtype
        np.testing.assert_array_equal(found, there)
        again = memmap.at(pickle.loads(pickle.dumps(memmap.place(found))))
        np.testing.assert_array_equal(again, there)
        assert isinstance(again, np.memmap) and len(pickle.dumps(memmap.place(found))) < 400


def test_what_cannot_be_mapped_is_not(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "compressed.npz", x=X)
    np.savez(tmp_path / "columns.npz", x=np.asfortranarray(X[:, :, 0]), o=np.array([None]))
    for file, name in (("compressed", "x"), ("columns", "x"), ("columns", "o"), ("columns", "nothing")):
        assert memmap.array_in_npz(str(tmp_path / f"{file}.npz"), name) is None


def test_what_is_mapped_takes_no_memory(tmp_path: Path) -> None:
    held, rows = np.zeros((4, 2), np.float32), np.array([1, 3])
    np.save(tmp_path / "x.npy", held)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    columns = {
        "rows": Rows(held, rows),
        "joined": Joined((held[:1], held[1:2])),
        "ragged": Ragged.packed(np.zeros(4, np.int64), rows),
        "mapped": Rows(mapped, rows),
        "watched": Rows(memmap.watched(mapped), rows),
    }
    assert sorted(each.nbytes for each in arrays_of(Columns(columns))) == [8, 8, 32, 32]


def test_part_of_a_mapped_array_travels_as_its_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)
    whole = memmap.array_in_npz(str(tmp_path / "a.npz"), "x")
    assert whole is not None
    np.testing.assert_array_equal(memmap.at(memmap.place(whole[10:20])), X[10:20])  # type: ignore[arg-type]


@pytest.mark.usefixtures("everything_is_large")
def test_data_are_the_same_mapped_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez(tmp_path / "test.npz", x=X[:9], y=Y[:9])
    spec = DataSpec(kind="npz", root=str(tmp_path), train="train.npz", test="test.npz", classes=5)
    far = load(spec, 0)
    assert isinstance(far.test.x, Watched) and isinstance(far.test.x.of, np.memmap)
    assert isinstance(far.train.x, Rows)  # of the mapped array, without those held out
    monkeypatch.setattr(memmap, "MAPPED_FROM", 2**60)
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
@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_mapped_travels_as_its_place_within_a_ray_of_this_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    import ray

    from orchestrator.cluster import connection, ray_private

    @ray.remote
    def seen(data: Dataset) -> tuple[bool, float]:
        assert isinstance(data.train.x, np.ndarray)
        return isinstance(data.train.x.base, mmap.mmap), float(data.train.x.sum())

    if not in_place:  # a cluster that this process joined
        monkeypatch.setattr(ray_private, "local_node", lambda: SimpleNamespace(head=False))
    np.savez(tmp_path / "a.npz", x=X)
    x = memmap.array_in_npz(str(tmp_path / "a.npz"), "x")
    assert x is not None
    split = Split(x, Y)
    assert ray.get(seen.remote(connection.share(Dataset(split, split, split, None, 5)))) == (in_place, float(X.sum()))


def test_what_the_file_does_not_hold_as_it_is_travels_as_its_values(tmp_path: Path) -> None:
    np.save(tmp_path / "columns.npy", np.asfortranarray(X[:, :, 0]))
    columns = np.load(tmp_path / "columns.npy", mmap_mode="r")
    np.testing.assert_array_equal(memmap.at(memmap.place(columns)), X[:, :, 0])
    np.save(tmp_path / "rows.npy", X)
    changed = np.load(tmp_path / "rows.npy", mmap_mode="c")
    changed -= 1.0
    np.testing.assert_array_equal(memmap.at(memmap.place(changed)), X - np.float32(1.0))


def test_a_file_that_was_changed_since_is_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    place = memmap.place(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.save(tmp_path / "x.npy", X[:40])
    with pytest.raises(RunError, match=r"x\.npy' has changed"):
        memmap.at(place)


@pytest.mark.usefixtures("everything_is_large")
def test_a_compressed_archive_is_read_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=X, y=Y)
    (tmp_path / "train.npz.gz").write_bytes(gzip.compress((tmp_path / "test.npz").read_bytes()))
    np.savez(tmp_path / "test.npz", x=X[:10], y=Y[:10])
    data = load(DataSpec(kind="npz", root=str(tmp_path), train="train.npz.gz", test="test.npz"), 0)
    assert len(data.train) + len(data.validation) == len(X)


def replaced(path: Path) -> None:
    other = path.with_suffix(".new.npy")
    np.save(other, X + 1)
    other.rename(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "shorter": (lambda path: os.truncate(path, 100), r"has changed \(2,528 bytes before, 100 now\)"),
    "empty": (lambda path: path.write_bytes(b""), r"has changed \(2,528 bytes before, 0 now\)"),
    "longer": (lambda path: np.save(path, np.concatenate([X, X])), r"has changed \(2,528 bytes before, 4,928 now\)"),
    "other values": (lambda path: np.save(path, X + 1), r"has changed \(it was written to or replaced\)"),
    "replaced": (replaced, r"has changed \(it was written to or replaced\)"),
    "gone": (lambda path: path.unlink(), "is gone"),
}
READS: dict[str, Callable[[Column], object]] = {
    "a slice": lambda x: x[:3],
    "rows": lambda x: x[np.array([40, 2])],
    "a batch": lambda x: gather(x, np.array([40, 2])),
    "a batch of some": lambda x: gather(Rows(x, np.arange(50)[::-1]), np.array([40, 2])),
    "a batch of several": lambda x: gather(Joined((X, x)), np.array([40, 2, 90])),
    "everything": digest,
    "its values": lambda x: pickle.loads(pickle.dumps(x)),
    "as it travels": lambda x: memmap.check(Split(Rows(x, np.arange(3)), Y)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", READS)
def test_a_file_that_changes_while_a_run_lives_is_not_read(tmp_path: Path, change: str, read: str) -> None:
    """A page that was cut off would end this process."""
    np.save(tmp_path / "x.npy", X)
    os.utime(tmp_path / "x.npy", ns=(0, 10**18))  # as if it had been written long before
    x = memmap.watched(np.load(tmp_path / "x.npy", mmap_mode="r"))
    READS[read](x)
    CHANGES[change][0](tmp_path / "x.npy")
    with pytest.raises(RunError, match=rf"data file '.*x\.npy' {CHANGES[change][1]}.*Run the same command again"):
        READS[read](x)


def test_a_change_while_rows_are_read_is_seen(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    os.utime(tmp_path / "x.npy", ns=(0, 10**18))
    x = memmap.watched(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert isinstance(x, Watched)
    with pytest.raises(RunError, match="has changed"):
        x.read(lambda of: (np.array(of[:3]), np.save(tmp_path / "x.npy", X)))


class Mine:
    """Column of a data factory's own, which hold a mapped array somewhere."""

    def __init__(self, frames: np.ndarray) -> None:
        self.inside = {"frames": [frames]}["frames"]
        self.shape, self.dtype = frames.shape, frames.dtype

    def __len__(self) -> int:
        return len(self.inside[0])

    def __getitem__(self, rows: object) -> np.ndarray:
        return np.asarray(self.inside[0][rows])


def test_what_reads_a_mapped_file_is_watched(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    whole = np.load(tmp_path / "x.npy", mmap_mode="r")
    for reads in (whole, whole[5:20], np.asarray(whole), whole.reshape(50, 12)[:, ::2], Mine(whole), Mine(whole[3:])):
        found = memmap.watched(reads)
        assert isinstance(found, Watched) and [file.path for file in found.files] == [str(tmp_path / "x.npy")]
        rows = np.array([3, 1])
        np.testing.assert_array_equal(found[rows], reads[rows])
        assert (gather(found, rows) == gather(reads, rows)).all() and digest(found) == digest(reads)
        assert found[:2].base is None or not np.may_share_memory(found[:2], whole)
    for plain in (X, X[3:], np.array(whole), whole[np.array([1, 2])], Mine(X)):
        assert memmap.watched(plain) is plain


READERS = """
import numpy as np
class Mine:
    def __init__(self, path):
        frames = np.load(path, mmap_mode="r")
        self.path, self.shape, self.dtype = path, frames.shape, frames.dtype
    def __len__(self):
        return self.shape[0]
    def __getitem__(self, rows):
        return np.asarray(np.load(self.path, mmap_mode="r")[rows])
def splits(path):
    x, y = Mine(path), np.arange(len(Mine(path))) % 2
    return {"train": (x, y), "test": (np.load(path) + 0.5, y)}
"""


def test_files_that_a_factory_opens_are_watched_where_it_may_read_them_later(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "reads.py").write_text(READERS)
    spec = DataSpec(
        kind="python", factory="reads:splits", kwargs={"path": str(tmp_path / "x.npy")}, folder=str(tmp_path)
    )
    dataset = load(spec, 0)
    assert type(dataset.test.x) is np.ndarray
    memmap.check(dataset)
    np.save(tmp_path / "x.npy", X[:10])
    with pytest.raises(RunError, match=r"x\.npy' has changed"):
        memmap.check(dataset)
    held = Mine(np.load(tmp_path / "x.npy", mmap_mode="r"))
    held.__dict__["inside"] = {0: held.inside[0]}
    assert isinstance(memmap.watched(held), Watched)


def test_what_a_factory_wrote_itself_is_no_change(tmp_path: Path) -> None:
    made = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, X.shape)
    made[:] = X
    found = memmap.watched(made)
    np.testing.assert_array_equal(found[np.arange(50)], X)


def test_batches_of_watched_rows_have_the_same_bits(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)  # at an odd place in the file
    x = memmap.array_in_npz(str(tmp_path / "a.npz"), "x")
    assert x is not None
    rows, room = np.random.default_rng(0).integers(0, 50, 200), Room()
    for inputs in (memmap.watched(x), Rows(memmap.watched(x), np.arange(50))):
        assert gather(inputs, rows, room).numpy().tobytes() == gather(X, rows).numpy().tobytes()


@pytest.mark.usefixtures("everything_is_large")
def test_a_change_between_reading_and_sharing_is_seen(tmp_path: Path) -> None:
    for name, x in (("train", X), ("test", X[:9] + 1)):
        np.savez(tmp_path / f"{name}.npz", x=x, y=Y[: len(x)])
        os.utime(tmp_path / f"{name}.npz", ns=(0, 10**18))
    dataset = load(DataSpec(kind="npz", root=str(tmp_path), train="train.npz", test="test.npz", classes=5), 0)
    memmap.check(dataset)
    np.savez(tmp_path / "train.npz", x=X[::-1], y=Y)
    with pytest.raises(RunError, match=r"train\.npz' has changed"):
        memmap.check(dataset)
