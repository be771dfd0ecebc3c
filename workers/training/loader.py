"""What the training loop is fed with: an epoch's batches, on the device, in an order that the seed alone decides.

Two kinds of an epoch: `HardLabels` draws all its examples at random; `SoftLabels` goes through the parts of a store of
soft targets as they come. Both give runs of rows, which are gathered many batches at a time, so that a small student
is not held up by Python, and handed to the device while the step before is computed.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from workers.data.arrays import Index, Room, gather, widened
from workers.data.dataset import Split
from workers.losses import UNLABELLED
from workers.targets import soft_targets
from workers.targets.layout import WINDOW, PartLayout, batch_sizes
from workers.targets.part_cache import PartCache, Place
from workers.targets.soft_targets import DamagedPart, Part, PartFile, Rows
from workers.targets.top_k import TopK

T = TypeVar("T")

GATHERED, GATHERED_BYTES = 4096, 2**26
"""About how many examples are gathered at a time, and the most bytes of them, unless one batch has more."""
CACHE_BYTES = 256 * 2**20
"""Of parts that a worker keeps in memory after reading them, unless those it mixes are more."""
AHEAD = 4
"""Parts that are read, or waited for, before they are needed."""


@dataclass(frozen=True)
class Batch:
    """One worker's cut of one batch, on its device.

    x: [b, ...]. y: [b] int64. soft: of b rows at the loss's temperature, [b, K] or `TopK`, or None. rows,
    labelled_rows: of the whole batch, over all workers. entropy: in nats, summed over the cut's soft targets.
    """

    x: Tensor
    y: Tensor
    soft: Tensor | TopK | None
    entropy: float
    rows: int
    labelled_rows: int


@dataclass(frozen=True)
class Run:
    """A stretch of an epoch's order: the examples' ids [n], and the rows of `cache` with their soft targets.

    The rows hold until the next run is asked for.
    """

    ids: Index
    rows: Index | None = None
    cache: PartCache | None = None

    def cut(self, start: int, stop: int) -> Run:
        return Run(self.ids[start:stop], None if self.rows is None else self.rows[start:stop], self.cache)


class Epochs(Protocol):
    """Where the rows of an epoch come from."""

    split: Split
    waited_s: float
    """Seconds that were spent waiting for soft targets."""
    given: int
    """Examples that were handed out."""

    def runs(self, epoch: int, seed: int) -> Iterator[Run]: ...

    def __len__(self) -> int:
        """Examples of an epoch."""


@dataclass
class HardLabels:
    """Examples and their labels, all of them mixed in each epoch; where `x` has several views, each epoch the next."""

    split: Split
    waited_s: float = 0.0
    given: int = 0

    def __len__(self) -> int:
        return len(self.split)

    def runs(self, epoch: int, seed: int) -> Iterator[Run]:
        drawn = np.random.default_rng([seed, epoch]).permutation(len(self.split))
        views = len(self.split.x) // len(self.split)
        yield Run(drawn + epoch % views * len(self.split))


@dataclass
class SoftLabels:
    """The transfer set with its soft targets, part by part. `part(number)` says where a part is, and waits for it."""

    split: Split
    folder: str
    layout: PartLayout
    part: Callable[[int], Part | PartFile]
    waited_s: float = 0.0
    given: int = 0
    cache: PartCache | None = None

    def __len__(self) -> int:
        return self.layout.examples

    def runs(self, epoch: int, seed: int) -> Iterator[Run]:
        windows = list(self.layout.windows(epoch, seed))
        numbers = [number for window in windows for number in window]
        missing = list(numbers if self.cache is None else self.cache.missing(numbers))
        with ThreadPoolExecutor(AHEAD) as threads, closing(self._ahead(missing, threads)) as read:
            for window in windows:
                found = [self._found(number, read) for number in window]
                ids = np.concatenate([place.ids for place in found])
                rows = np.concatenate([place.rows for place in found])
                order = np.random.default_rng([seed, epoch, window[0]]).permutation(len(ids))
                yield Run(ids[order], rows[order], self.cache)

    def read(self, number: int) -> Place:
        """A part in memory; read where it is not there yet."""
        return (self.cache and self.cache.find(number)) or self._put(number, self._read(self.part(number)))

    def _ahead(self, numbers: Sequence[int], threads: ThreadPoolExecutor) -> Generator[tuple[float, Future[Rows]]]:
        """These parts as they are read, a few ahead of who needs them, each with the time when it was there."""

        def begun() -> Iterator[tuple[float, Future[Rows]]]:
            for number in numbers:
                part = self.part(number)
                yield time.perf_counter(), threads.submit(self._read, part)

        return _ahead(begun(), AHEAD)

    def _found(self, number: int, read: Iterator[tuple[float, Future[Rows]]]) -> Place:
        """A part's place: where it is, or where the next that was read is put."""
        known = self.cache and self.cache.find(number)
        if known:
            return known
        started = time.perf_counter()
        there_s, rows = next(read)
        self.waited_s += max(0.0, there_s - started)
        return self._put(number, rows.result())

    def _read(self, part: Part | PartFile) -> Rows:
        try:
            return soft_targets.read_part(self.folder, part)
        except DamagedPart:
            soft_targets.remove_manifest(self.folder)  # which vouched for it: the next run reads all that is there
            raise

    def _put(self, number: int, rows: Rows) -> Place:
        rows = replace(rows, ids=self.layout.ids(number))  # not as examples are called in the file
        if self.cache is None:
            room = CACHE_BYTES // (rows.nbytes // len(rows.ids) * self.layout.rows)
            self.cache = PartCache(min(self.layout.parts, max(WINDOW, room)), self.layout.rows, rows)
        return self.cache.put(number, rows)


def batches(
    epochs: Epochs, epoch: int, batch_size: int, seed: int, device: torch.device, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The batches of one epoch as `rank` of `world` workers takes them, each good until the next is asked for."""
    sizes = batch_sizes(len(epochs), batch_size)
    wide = max(1, 4 * math.prod(epochs.split.x.shape[1:]))
    together = max(1, min(GATHERED, GATHERED_BYTES // wide) // sizes[0])
    groups = [sizes[start : start + together] for start in range(0, len(sizes), together)]
    runs = _cut(epochs.runs(epoch, seed), np.cumsum([sum(group) for group in groups]).tolist())
    room = None if device.type == "cuda" else Room()  # what is made ahead needs memory of its own
    gathered = (_gather(epochs.split, runs, group, device, rank, world, room) for group in groups)
    for ready in gathered if room else _ahead(gathered):
        epochs.given += sum(len(batch.y) for batch in ready)
        yield from ready


def _cut(runs: Iterator[Run], ends: list[int]) -> Iterator[Run]:
    """The same order, cut also where the rows of one gathering end."""
    done, following = 0, iter(ends)
    end = next(following)
    for run in runs:
        start = 0
        while start < len(run.ids):
            stop = min(start + end - done, len(run.ids))
            yield run.cut(start, stop)
            done, start = done + stop - start, stop
            if done == end:
                end = next(following, end)


def _gather(
    split: Split, runs: Iterator[Run], sizes: list[int], device: torch.device, rank: int, world: int, room: Room | None
) -> list[Batch]:
    """The rows of several batches, gathered at once and cut: one worker's share of each, as even as it can be.

    Takes as many of `runs` as it needs, and of each its soft targets before the next.
    """
    edges = np.cumsum([0, *sizes])
    starts = edges[:-1] + np.array(sizes) * rank // world
    stops = edges[:-1] + np.array(sizes) * (rank + 1) // world
    own = (stops - starts).tolist()
    mine = np.concatenate([np.arange(*share) for share in zip(starts, stops, strict=True)])
    ids, soft, entropy, done = [], [], [np.zeros(1)], 0
    while done < edges[-1]:
        run = next(runs)
        if run.cache is not None and run.rows is not None:
            first, behind = np.searchsorted(mine, [done, done + len(run.ids)])
            rows = run.rows[mine[first:behind] - done]
            soft.append(run.cache.draw(rows))
            entropy.append(run.cache.entropy[rows])
        ids.append(run.ids)
        done += len(run.ids)
    every = np.concatenate(ids)
    labels = split.y[every % len(split)]
    labelled = np.add.reduceat((labels != UNLABELLED).astype(np.int64), edges[:-1]).tolist()
    narrow = device.type == "cuda"
    x = widened(_to(gather(split.x, every[mine], room, narrow=narrow), device)).split(own)
    y = _to(torch.from_numpy(labels[mine]), device).split(own)
    if not soft:
        return [Batch(x[k], y[k], None, 0.0, size, labelled[k]) for k, size in enumerate(sizes)]
    softs = _split(_to(_joined(soft), device), own)
    sums = np.diff(np.cumsum(np.concatenate(entropy), dtype=np.float64)[np.cumsum([0, *own])]).tolist()
    return [Batch(x[k], y[k], softs[k], sums[k], size, labelled[k]) for k, size in enumerate(sizes)]


def _joined(several: Sequence[Any]) -> Tensor | TopK:
    """Soft targets of one kind, one after another."""
    first: Tensor | TopK = several[0]
    if len(several) == 1:
        return first
    if isinstance(first, TopK):
        return TopK(*(torch.cat([getattr(t, name) for t in several]) for name in TopK.__annotations__))
    return torch.cat(list(several))


def _split(soft: Tensor | TopK, sizes: list[int]) -> Sequence[Tensor | TopK]:
    if isinstance(soft, Tensor):
        cut: tuple[Tensor, ...] = soft.split(sizes)
        return cut
    edges = np.cumsum([0, *sizes])
    return [soft.rows(slice(start, stop)) for start, stop in pairwise(edges)]


def _to(rows: Any, device: torch.device) -> Any:
    """A tensor or `TopK` on the device; to a GPU from pinned memory, without waiting for it."""
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows


def _ahead(items: Iterator[T], depth: int = 2) -> Generator[T]:
    """The same items, made in a thread that is at most `depth` ahead; its errors come out here."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    gone = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not gone.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item)
                if gone.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, whatever it is
            put(error)

    threading.Thread(target=make, name="feed", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        gone.set()
