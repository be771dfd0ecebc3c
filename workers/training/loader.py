"""The loader of the training loop: an epoch's batches, on the device, in an order that depends only on the seed.

There are two sources of an epoch. `HardLabels` draws all its examples at random; `SoftLabels` goes through the parts
of a store of soft targets as the teachers write them. Both yield runs of rows. The loader gathers many batches at a
time, since otherwise Python would limit a small student. On a GPU it copies them while the previous step runs.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from workers.data.arrays import Index, Room
from workers.data.collate import Collator, Inputs, collate, rows_between, widened
from workers.data.dataset import Split
from workers.data.examples import lengths_of, values_of
from workers.data.positions import Positions
from workers.data.sampling import Draw
from workers.losses import term
from workers.targets.base import joined
from workers.targets.layout import WINDOW, PartLayout, batch_sizes
from workers.targets.part_cache import PartCache, Place
from workers.targets.reader import Reader
from workers.targets.soft_targets import Part, PartFile, Rows

T = TypeVar("T")

GATHERED, GATHERED_BYTES = 4096, 2**26
"""About how many examples the loader gathers at a time, and at most how many bytes, unless one batch is larger."""
GROUPED = 32
"""Batches among which examples are grouped by their lengths."""
CACHE_BYTES = 256 * 2**20
"""Size of a worker's cache of parts, unless the parts that it mixes are larger."""
AHEAD = 4
"""Parts to prefetch."""


@dataclass(frozen=True)
class Batch(term.Batch):
    """One worker's cut of one batch, on its device: the signals for terms, and the inputs.

    ids: [b] int64 of the examples in the split. x: their inputs, a tensor [b, ...] or named tensors. entropy: in nats,
    summed over the cut's targets.
    """

    ids: Index
    x: Inputs
    entropy: float

    def cut(self, start: int, stop: int) -> Batch:
        """Some of its examples as views, as a piece of the same batch. The entropy stays with the whole cut."""
        rows = rows_between(self.x, start, stop)
        targets = None if self.targets is None else self.targets.rows(rows)
        x, ids = self.x[start:stop], self.ids[start:stop]
        return replace(self, labels=self.labels[rows], targets=targets, ids=ids, x=x, entropy=0.0)


@dataclass(frozen=True)
class Run:
    """Consecutive examples of an epoch's order.

    ids: [n] of the examples. starts: [n], for each example the first row of its soft targets in `cache`. The rows are
    valid until the consumer requests the next run.
    """

    ids: Index
    starts: Index | None = None
    cache: PartCache | None = None

    def cut(self, start: int, stop: int) -> Run:
        return Run(self.ids[start:stop], None if self.starts is None else self.starts[start:stop], self.cache)


class Epochs(Protocol):
    """A source of an epoch's rows."""

    split: Split
    waited_s: float
    """Seconds that the loader waited for soft targets."""
    given: int
    """Examples that the loader has yielded."""

    def runs(self, epoch: int, seed: int) -> Iterator[Run]: ...

    def __len__(self) -> int:
        """Number of examples in an epoch."""


@dataclass
class HardLabels:
    """Labelled examples, shuffled in each epoch; where `x` has several views, each epoch takes the next view.

    draw: the ids of an epoch's examples, as many as the split has; None: each of them once.
    """

    split: Split
    waited_s: float = 0.0
    given: int = 0
    draw: Draw | None = None

    def __len__(self) -> int:
        return len(self.split)

    def runs(self, epoch: int, seed: int) -> Iterator[Run]:
        drawn = np.random.default_rng([seed, epoch]).permutation(len(self.split))
        if self.draw is not None:
            drawn = self.draw(epoch)[drawn]
        views = len(self.split.x) // len(self.split)
        yield Run(drawn + epoch % views * len(self.split))


@dataclass
class SoftLabels:
    """The transfer set with its soft targets, part by part.

    `part(number)` waits for a part and returns its record; `reader` reads the part.
    """

    split: Split
    layout: PartLayout
    part: Callable[[int], Part | PartFile]
    reader: Reader
    waited_s: float = 0.0
    given: int = 0
    cache: PartCache | None = None

    def __len__(self) -> int:
        return self.layout.examples

    def runs(self, epoch: int, seed: int) -> Iterator[Run]:
        windows = list(self.layout.windows(epoch, seed))
        numbers = [number for window in windows for number in window]
        missing = list(numbers if self.cache is None else self.cache.missing(numbers))
        with ThreadPoolExecutor(AHEAD) as threads, closing(self._read_ahead(missing, threads)) as read:
            for window in windows:
                found = [self._found(number, read) for number in window]
                ids = np.concatenate([place.ids for place in found])
                starts = np.concatenate([place.rows for place in found])
                order = np.random.default_rng([seed, epoch, window[0]]).permutation(len(ids))
                yield Run(ids[order], starts[order], self.cache)

    def _read_ahead(self, numbers: Sequence[int], threads: ThreadPoolExecutor) -> Generator[tuple[float, Future[Rows]]]:
        """Prefetch these parts, at most `AHEAD` of them; yields each with the time at which it was available."""

        def begun() -> Iterator[tuple[float, Future[Rows]]]:
            for number in numbers:
                part = self.part(number)
                yield time.perf_counter(), threads.submit(self.reader, number, part)

        return _ahead(begun(), AHEAD)

    def _found(self, number: int, read: Iterator[tuple[float, Future[Rows]]]) -> Place:
        """The place of a part in the cache; a missing part is the next that `read` yields."""
        known = self.cache and self.cache.find(number)
        if known:
            return known
        started = time.perf_counter()
        there_s, rows = next(read)
        self.waited_s += max(0.0, there_s - started)
        return self._put(number, rows.result())

    def _put(self, number: int, rows: Rows) -> Place:
        if self.cache is None:
            most = most_rows(self.layout, self.split.rows)
            places = cached_parts(self.layout, rows.nbytes / len(rows.ids) * most / self.layout.rows)
            self.cache = PartCache(places, most, rows)
        ids = self.layout.ids(number)
        return self.cache.put(number, rows, ids, self.split.rows.edges(ids)[:-1])


def most_rows(layout: PartLayout, rows: Positions) -> int:
    """The largest number of rows in a part."""
    if rows.is_one_each:
        return layout.rows
    return max(int(rows.of(layout.ids(number)).sum()) for number in range(layout.parts_per_view))


def cached_parts(layout: PartLayout, example_bytes: float) -> int:
    """How many parts a worker caches. example_bytes: size of an example in memory."""
    return min(layout.parts, max(WINDOW, int(CACHE_BYTES // (example_bytes * layout.rows))))


def batches(
    epochs: Epochs,
    epoch: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    temperatures: Sequence[float] | None = None,
    collator: Collator = collate,
) -> Iterator[Batch]:
    """The batches of one epoch for worker `rank` of `world`; each is valid until the consumer requests the next.

    temperatures: T of the soft targets, per batch; None: the T at which they were stored. collator: builds the model's
    input batches.

    Raises: `RequestError` for targets that are softened at another T.
    """
    sizes = batch_sizes(len(epochs), batch_size)
    wide = max(1, 4 * values_of(epochs.split.x))
    together = max(1, min(GATHERED, GATHERED_BYTES // wide) // sizes[0])
    groups = [sizes[start : start + together] for start in range(0, len(sizes), together)]
    drawn = by_length(epochs.runs(epoch, seed), lengths_of(epochs.split.x, collator.tokens), sizes, [seed, epoch])
    runs = _cut(drawn, np.cumsum([sum(group) for group in groups]).tolist())
    room = None if device.type == "cuda" else Room()  # batches that are prefetched cannot share memory
    share, starts = Share(epochs.split, device, rank, world, collator), np.cumsum([0, *map(len, groups)]).tolist()
    gathered = (
        share.gather(runs, group, room, temperatures and temperatures[start : start + len(group)])
        for group, start in zip(groups, starts[:-1], strict=True)
    )
    for ready in gathered if room else _ahead(gathered):
        epochs.given += sum(len(batch.x) for batch in ready)
        yield from ready


def by_length(runs: Iterator[Run], lengths: Index | None, sizes: Sequence[int], seed: list[int]) -> Iterator[Run]:
    """Reorder the examples of each run, so that a batch has examples of similar lengths, and less padding.

    lengths: [N] of the examples; None leaves the order as it is. sizes: of the epoch's batches. Among `GROUPED` batches
    at a time, examples ascend in length. The batches' own order, and the order within each, are drawn from the seed.
    """
    if lengths is None:
        yield from runs
        return
    draw, edges, done = np.random.default_rng([*seed, 0x1E46]), np.cumsum(sizes), 0
    for run in runs:
        inside = edges[(edges > done) & (edges < done + len(run.ids))] - done
        order = _grouped(lengths[run.ids % len(lengths)], [0, *inside.tolist(), len(run.ids)], draw)
        yield Run(run.ids[order], None if run.starts is None else run.starts[order], run.cache)
        done += len(run.ids)


def _grouped(lengths: Index, edges: Sequence[int], draw: np.random.Generator) -> Index:
    """An order [n] of examples whose batches begin and end at `edges`."""
    order = np.arange(len(lengths))
    for first in range(0, len(edges) - 1, GROUPED):
        cuts = edges[first : first + GROUPED + 1]
        ascending = cuts[0] + np.argsort(lengths[cuts[0] : cuts[-1]], kind="stable")
        taken = 0
        for batch in draw.permutation(len(cuts) - 1):
            size = cuts[batch + 1] - cuts[batch]
            order[cuts[batch] : cuts[batch + 1]] = draw.permutation(ascending[taken : taken + size])
            taken += size
    return order


def _cut(runs: Iterator[Run], ends: list[int]) -> Iterator[Run]:
    """Cut the runs at the ends of the gathered groups too; the order stays the same."""
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


@dataclass(frozen=True)
class Share:
    """Gathers one worker's share of every batch onto its device. Shares differ by at most one example."""

    split: Split
    device: torch.device
    rank: int
    world: int
    collator: Collator = collate

    def gather(
        self, runs: Iterator[Run], sizes: list[int], room: Room | None, temperatures: Sequence[float] | None
    ) -> list[Batch]:
        """Gather the rows of several batches at once, then cut them into batches.

        Consumes as many `runs` as necessary. It copies the soft targets of a run before it requests the next one,
        which invalidates them.
        """
        split, edges = self.split, np.cumsum([0, *sizes])
        starts = edges[:-1] + np.array(sizes) * self.rank // self.world
        stops = edges[:-1] + np.array(sizes) * (self.rank + 1) // self.world
        own = (stops - starts).tolist()
        mine = np.concatenate([np.arange(*share) for share in zip(starts, stops, strict=True)])
        ids, soft, done = [], [], 0
        entropy: list[NDArray[np.floating]] = [np.zeros(1)]
        while done < edges[-1]:
            run = next(runs)
            if run.cache is not None and run.starts is not None:
                first, behind = np.searchsorted(mine, [done, done + len(run.ids)])
                drawn = mine[first:behind] - done
                stored = split.rows.from_first(run.starts[drawn], run.ids[drawn])
                soft.append(run.cache.draw(stored))
                entropy.append(run.cache.entropy[stored])
            ids.append(run.ids)
            done += len(run.ids)
        every = np.concatenate(ids)
        rows, (taken, at, labels) = split.rows, split.read(every[mine])
        size = np.diff(rows.edges(every)[edges]).tolist()
        labelled = np.add.reduceat(split.labelled_of(every), edges[:-1]).tolist()
        cuts = np.diff(rows.edges(every[mine])[np.cumsum([0, *own])]).tolist()
        narrow = self.device.type == "cuda"
        x = widened(self._to(self.collator(taken, at, room, narrow=narrow))).split(own)
        of = np.split(every[mine], np.cumsum(own)[:-1])
        y = self._to(torch.from_numpy(labels)).split(cuts)
        if not soft:
            return [
                Batch(y[k], None, size[k], labelled[k], examples=count, ids=of[k], x=x[k], entropy=0.0)
                for k, count in enumerate(sizes)
            ]
        sums = np.diff(np.cumsum(np.concatenate(entropy), dtype=np.float64)[np.cumsum([0, *cuts])]).tolist()
        found = []
        for k, of_store in enumerate(self._to(joined(soft)).split(cuts)):
            targets = of_store.at(None if temperatures is None else temperatures[k])
            of_cut = sums[k] if targets is of_store else float(targets.entropy().sum())
            found.append(
                Batch(y[k], targets, size[k], labelled[k], examples=sizes[k], ids=of[k], x=x[k], entropy=of_cut)
            )
        return found

    def _to(self, rows: Any) -> Any:
        """A tensor or targets on the device; copies to a GPU are asynchronous, from pinned memory."""
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows


def _ahead(items: Iterator[T], depth: int = 2) -> Generator[T]:
    """Yield the items of a thread that runs at most `depth` ahead; its exceptions are re-raised here."""
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
        except BaseException as error:  # the consumer raises it
            put(error)

    threading.Thread(target=make, name="loader", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        gone.set()
