"""The feed: every example once an epoch, in an order that the seed decides, with the soft targets that are its own."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.makers import in_memory, stored
from workers.data.dataset import Split
from workers.errors import RunError
from workers.targets.dense import Dense
from workers.targets.layout import WINDOW, PartLayout, batch_sizes, part_rows, piece_rows
from workers.targets.part_cache import PartCache
from workers.targets.reader import StoreReader
from workers.targets.soft_targets import Part, PartFile, Rows
from workers.targets.top_k import bytes_per_row
from workers.training import loader
from workers.training.loader import HardLabels, SoftLabels

CPU = torch.device("cpu")
N = 300


def split() -> Split:
    """Each example tells its own id."""
    x = np.repeat(np.arange(N, dtype=np.float32)[:, None], 2, axis=1)
    return Split(x, np.where(np.arange(N) % 3 == 0, -1, np.arange(N) % 5))


def soft() -> SoftLabels:
    p = np.stack([np.arange(N), N - np.arange(N)], axis=1).astype(np.float32) / N
    return in_memory(split(), p, rows=7)


def kept(epochs: loader.Epochs, epoch: int, rank: int = 0, world: int = 1) -> list[loader.Batch]:
    """Every batch of 32 in memory of its own."""
    return [replace(b, x=b.x.clone()) for b in loader.batches(epochs, epoch, 32, 0, CPU, rank=rank, world=world)]


@pytest.mark.parametrize("make", [lambda: HardLabels(split()), soft])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_example_once_with_what_belongs_to_it(make: Callable[[], loader.Epochs], epoch: int) -> None:
    seen = []
    for batch in loader.batches(make(), epoch, 32, 0, CPU):
        ids = batch.x[:, 0].long()  # a copy
        seen.append(ids)
        assert batch.rows == len(ids) and batch.labelled_rows == int((ids % 3 != 0).sum())
        assert torch.equal(batch.labels, torch.from_numpy(split().y)[ids])
        if batch.targets is not None:
            torch.testing.assert_close(batch.targets.probabilities[:, 0], ids / N)
            p = batch.targets.probabilities.double().clamp_min(1e-38)
            assert batch.entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-4)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(N))
    assert {len(ids) for ids in seen} == {30}


@pytest.mark.parametrize("make", [lambda: HardLabels(split()), soft])
def test_the_seed_and_the_epoch_decide_the_order(make: Callable[[], loader.Epochs]) -> None:
    def order(epoch: int, seed: int) -> tuple[float, ...]:
        return tuple(i for b in loader.batches(make(), epoch, 32, seed, CPU) for i in b.x[:, 0].tolist())

    assert order(1, 0) == order(1, 0)
    assert len({order(0, 0), order(1, 0), order(0, 1), order(1, 1)}) == 4


@pytest.mark.parametrize("make", [lambda: HardLabels(split()), soft])
@pytest.mark.parametrize("epoch", [0, 1])
def test_workers_cut_the_same_batches(make: Callable[[], loader.Epochs], epoch: int) -> None:
    whole = kept(make(), epoch)
    cuts = [kept(make(), epoch, rank, 3) for rank in range(3)]
    for n, batch in enumerate(whole):
        parts = [cut[n] for cut in cuts]
        assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        assert {part.rows for part in parts} == {batch.rows}
        assert {part.labelled_rows for part in parts} == {batch.labelled_rows}
        assert sum(part.entropy for part in parts) == pytest.approx(batch.entropy, rel=1e-5)
        if batch.targets is not None:
            cut = torch.cat([part.soft.probabilities for part in parts])
            assert torch.equal(cut, batch.targets.probabilities)


def test_parts_are_read_ahead_in_order_and_fail_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = np.random.default_rng(0).random((N, 2), dtype=np.float32)
    layout, parts = stored(tmp_path, p, rows=30)
    asked: list[int] = []

    def part(number: int) -> Part:
        asked.append(number)
        if number == 3:
            raise RuntimeError("gone")
        return parts[number]

    labels, runs = SoftLabels(split(), layout, part, StoreReader(str(tmp_path), 2.0)), []
    with pytest.raises(RuntimeError, match="gone"):
        for run in labels.runs(0, 0):
            runs.append(sorted(run.ids))
            until = time.monotonic() + 10
            while len(asked) < 4 and time.monotonic() < until:
                time.sleep(0.01)
    assert runs == [layout.ids(number).tolist() for number in range(3)] and asked == [0, 1, 2, 3]


def test_only_what_is_waited_for_counts_as_waited(tmp_path: Path) -> None:
    p = np.random.default_rng(0).random((N, 2), dtype=np.float32)
    layout, parts = stored(tmp_path, p, rows=100)

    store, read = StoreReader(str(tmp_path), 2.0), list[int]()

    def part(number: int) -> Part:
        time.sleep(0.2)
        return parts[number]

    def reader(number: int, part: Part | PartFile) -> Rows:
        read.append(number)  # the part was available before
        return store(number, part)

    labels, began_s = SoftLabels(split(), layout, part, reader), time.perf_counter()
    for number, _ in enumerate(labels.runs(0, 0)):
        if number == 0:
            waited_s = labels.waited_s
            assert 0.19 < waited_s < time.perf_counter() - began_s
            while len(read) < layout.parts:
                assert time.perf_counter() - began_s < 60
                time.sleep(0.01)
    assert labels.waited_s == waited_s


def test_a_damaged_part_is_not_vouched_for_any_more(tmp_path: Path) -> None:
    p = np.random.default_rng(0).random((N, 2), dtype=np.float32)
    layout, parts = stored(tmp_path, p, rows=100)
    (tmp_path / "manifest.json").write_text("{}")
    damaged = tmp_path / parts[1].path
    damaged.write_bytes(damaged.read_bytes()[::-1])
    labels = SoftLabels(split(), layout, parts.__getitem__, StoreReader(str(tmp_path), 2.0))
    with pytest.raises(RunError, match=f"{parts[1].path}': the checksum is not .* the same command again"):
        list(labels.runs(0, 0))
    assert not (tmp_path / "manifest.json").exists() and damaged.exists()


@pytest.mark.parametrize("places", [1, 3, 8])
def test_what_a_cache_will_lack_is_forecast(places: int) -> None:
    rows = Rows(np.arange(5), Dense(torch.zeros(5, 2)), np.zeros(5, np.float32))
    cache, rng = PartCache(places, 5, rows), np.random.default_rng(0)
    for _ in range(20):
        numbers = rng.permutation(8)[:6].tolist()
        forecast, missing = list(cache.missing(numbers)), []
        for number in numbers:
            if cache.find(number) is None:
                missing.append(number)
                cache.put(number, rows, rows.ids, rows.ids)
        assert missing == forecast


@pytest.mark.parametrize("places", [0, 10**9])
def test_rows_are_right_however_few_parts_there_is_room_for(
    places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "CACHE_BYTES", places)
    p = np.random.default_rng(0).random((N, 2), dtype=np.float32)
    layout, parts = stored(tmp_path, p, rows=7)
    labels = SoftLabels(split(), layout, parts.__getitem__, StoreReader(str(tmp_path), 2.0))
    for epoch in range(4):
        for batch in loader.batches(labels, epoch, 100, 0, CPU):  # more than a window of sixteen parts holds at once
            assert torch.equal(batch.soft.probabilities, torch.from_numpy(p)[batch.x[:, 0].long()])
    assert labels.cache is not None and len(labels.cache.places) == (WINDOW if not places else layout.parts)


def test_the_layout_is_a_partition_and_mixes() -> None:
    layout = PartLayout(1000, 64)
    assert sorted(np.concatenate([layout.ids(n) for n in range(layout.parts)])) == list(range(1000))
    assert layout.ids(0).max() > 500  # a sample of all, not the first rows
    assert [w for w in layout.windows(0, 5)] == [[n] for n in range(16)]
    later = [list(layout.windows(e, 5)) for e in (1, 2)]
    assert later[0] != later[1] and all(len(w) <= WINDOW for e in later for w in e)
    assert sorted(n for w in later[0] for n in w) == list(range(16))


def test_views_follow_one_another() -> None:
    layout = PartLayout(100, 32, views=2)
    assert layout.parts == 8 and sorted(np.concatenate([layout.ids(n) for n in range(4, 8)])) == list(range(100, 200))
    assert [n for w in layout.windows(1, 0) for n in w] == [4, 5, 6, 7]
    assert sorted(n for w in layout.windows(3, 0) for n in w) == [4, 5, 6, 7]


def test_parts_have_rows_by_what_is_stored_and_pieces_by_what_is_sent() -> None:
    assert [part_rows(k) for k in (2, 512, 1000, 150_000)] == [8192, 8192, 4096, 64]
    assert [piece_rows(k) for k in (2, 512, 1000, 49_152, 150_000)] == [8192, 8192, 4096, 64, 64]
    assert [part_rows(k, bytes_per_row(16)) for k in (20, 1000, 49_152, 150_000)] == [8192] * 4
    assert [part_rows(49_152, bytes_per_row(k)) for k in (64, 512, 49_152)] == [8192, 4096, 64]


def test_more_workers_than_examples_leave_some_without() -> None:
    cuts = [list(loader.batches(soft(), 1, 2, 0, CPU, rank=rank, world=4)) for rank in range(4)]
    assert [sum(len(cut[n].x) for cut in cuts) for n in range(N // 2)] == [2] * (N // 2)
    assert min(len(batch.x) for cut in cuts for batch in cut) == 0


def test_batches_of_an_epoch_have_nearly_the_same_size() -> None:
    assert batch_sizes(129, 64) == [43, 43, 43]
    assert sum(batch_sizes(1001, 64)) == 1001
