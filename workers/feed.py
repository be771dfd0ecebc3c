"""What the training loop is fed with: an epoch's batches, on the device, in an order that the seed alone decides.

Two kinds of an epoch: `HardLabels` draws all its examples at random; `SoftLabels` goes through the parts of a store of
soft targets as they come. Both give runs of rows, which are gathered many batches at a time, so that a small student
is not held up by Python, and handed to the device while the step before is computed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import soft_targets
from workers.data import Split
from workers.inputs import Index, gather
from workers.losses import UNLABELLED
from workers.order import Layout, batch_sizes
from workers.soft_targets import Part, Rows
from workers.top_k import TopK

GATHERED = 4096
"""About how many examples are gathered at a time."""
CACHE_BYTES = 256 * 2**20
"""Parts that a worker keeps in memory after reading them, in all."""


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
    """A stretch of an epoch's order: the examples' ids [n], and where their soft targets are in `stored`."""

    ids: Index
    at: Index | None = None
    stored: Rows | None = None


class Epochs(Protocol):
    """Where the rows of an epoch come from."""

    split: Split
    waited_s: float
    """Seconds that were spent waiting for soft targets."""

    def runs(self, epoch: int, seed: int) -> Iterator[Run]: ...

    def __len__(self) -> int:
        """Examples of an epoch."""


@dataclass
class HardLabels:
    """Examples and their labels, all of them mixed in each epoch; where `x` has several views, each epoch the next."""

    split: Split
    waited_s: float = 0.0

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
    layout: Layout
    part: Callable[[int], Part]
    waited_s: float = 0.0
    _cache: OrderedDict[int, Rows] = field(default_factory=OrderedDict)
    _cached_bytes: int = 0

    def __len__(self) -> int:
        return self.layout.examples

    def runs(self, epoch: int, seed: int) -> Iterator[Run]:
        for window in self.layout.windows(epoch, seed):
            found = [self._read(number) for number in window]
            stored = found[0] if len(found) == 1 else soft_targets.joined(found)
            at = np.random.default_rng([seed, epoch, window[0]]).permutation(len(stored.ids))
            yield Run(stored.ids[at], at, stored)

    def _read(self, number: int) -> Rows:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        started = time.perf_counter()
        part = self.part(number)
        self.waited_s += time.perf_counter() - started
        rows = soft_targets.read_part(self.folder, part)
        self._cache[number] = rows
        self._cached_bytes += rows.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.nbytes
        return rows


def batches(
    epochs: Epochs, epoch: int, batch_size: int, seed: int, device: torch.device, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The batches of one epoch as `rank` of `world` workers takes them, one after another."""
    sizes = batch_sizes(len(epochs), batch_size)
    together = max(1, GATHERED // sizes[0])
    groups = [sizes[start : start + together] for start in range(0, len(sizes), together)]
    gathered = (
        _gather(epochs.split, stretch, group, device, rank, world)
        for stretch, group in zip(_stretches(epochs.runs(epoch, seed), map(sum, groups)), groups, strict=True)
    )
    for ready in _ahead(gathered) if device.type == "cuda" else gathered:
        yield from ready


def _stretches(runs: Iterator[Run], lengths: Iterator[int]) -> Iterator[list[Run]]:
    """The same order, cut into stretches of the given lengths; each may span several runs."""
    run, start = Run(np.empty(0, np.int64)), 0
    for length in lengths:
        stretch = []
        while length:
            if start == len(run.ids):
                run, start = next(runs), 0
            stop = min(start + length, len(run.ids))
            at = None if run.at is None else run.at[start:stop]
            stretch.append(Run(run.ids[start:stop], at, run.stored))
            length -= stop - start
            start = stop
        yield stretch


def _gather(
    split: Split, stretch: list[Run], sizes: list[int], device: torch.device, rank: int, world: int
) -> list[Batch]:
    """The rows of several batches, gathered at once and cut."""
    ids = stretch[0].ids if len(stretch) == 1 else np.concatenate([run.ids for run in stretch])
    edges = np.cumsum([0, *sizes])
    labels = split.y[ids % len(split)]
    labelled = np.add.reduceat((labels != UNLABELLED).astype(np.int64), edges[:-1])
    mine = _cut(edges, rank, world)
    own = [stop - start for start, stop in mine]
    taken: slice | Index = slice(None)
    if world > 1:
        taken = np.concatenate([np.arange(start, stop) for start, stop in mine])
    x = _to(gather(split.x, ids[taken]), device).split(own)
    y = _to(torch.from_numpy(labels[taken]), device).split(own)
    soft, entropy = _soft(stretch, taken)
    softs = [None] * len(sizes) if soft is None else _split(_to(soft, device), own)
    entropies = [0.0] * len(sizes) if entropy is None else [float(each.sum()) for each in entropy.split(own)]
    return [Batch(x[k], y[k], softs[k], entropies[k], size, int(labelled[k])) for k, size in enumerate(sizes)]


def _cut(edges: NDArray[np.int64], rank: int, world: int) -> list[tuple[int, int]]:
    """Where a worker's share of each batch begins and ends, as even as it can be."""
    starts, sizes = edges[:-1], np.diff(edges)
    return list(zip(starts + sizes * rank // world, starts + sizes * (rank + 1) // world, strict=True))


def _soft(stretch: list[Run], taken: slice | Index) -> tuple[Tensor | TopK | None, Tensor | None]:
    """The soft targets of some of a stretch's rows, and the entropy of each."""
    if stretch[0].stored is None:
        return None, None
    values, entropies, offset = [], [], 0
    for run in stretch:
        assert run.at is not None and run.stored is not None
        here = run.at
        if not isinstance(taken, slice):
            here = run.at[taken[(taken >= offset) & (taken < offset + len(run.at))] - offset]
        values.append(soft_targets.taken(run.stored.targets, here))
        entropies.append(gather(run.stored.entropy, here))
        offset += len(run.at)
    if len(values) == 1:
        return values[0], entropies[0]
    return soft_targets.concatenated(values), torch.cat(entropies)


def _split(soft: Tensor | TopK, sizes: list[int]) -> Sequence[Tensor | TopK]:
    if isinstance(soft, Tensor):
        cut: tuple[Tensor, ...] = soft.split(sizes)
        return cut
    edges = np.cumsum([0, *sizes])
    return [soft.rows(slice(start, stop)) for start, stop in pairwise(edges)]


def _to(rows: Any, device: torch.device) -> Any:
    """A tensor or `TopK` on the device; to a GPU from pinned memory, without waiting for it."""
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows


def _ahead(items: Iterator[list[Batch]], depth: int = 2) -> Iterator[list[Batch]]:
    """The same items, made in a thread that is at most `depth` ahead; its errors come out here."""
    ready: queue.Queue[list[Batch] | BaseException | None] = queue.Queue(depth)
    gone = threading.Event()

    def put(item: list[Batch] | BaseException | None) -> None:
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
