"""Positions: the units with one distribution each. They are whole examples, or elements such as tokens of a text.

Labels, soft targets and predictions have one row per position. Shuffling, cutting and batching operate on examples.
Where every example is one position, a row is an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from workers.data.ragged import Index, edges_of, stretches


@dataclass(frozen=True)
class Positions:
    """The rows of N examples, one example after another.

    examples: N. counts: [N] int64, the rows of each; None: one. All views share the counts: the id v * N + i stands for
    example i.
    """

    examples: int
    counts: Index | None = None

    def __len__(self) -> int:
        return self.examples if self.counts is None else int(self.counts.sum())

    @property
    def is_one_each(self) -> bool:
        return self.counts is None

    @property
    def mean(self) -> float:
        """Mean number of rows per example."""
        return len(self) / max(self.examples, 1)

    @cached_property
    def _starts(self) -> Index:
        assert self.counts is not None
        return np.cumsum(self.counts) - self.counts

    def of(self, ids: Index) -> Index:
        """Number of rows of each of the examples `ids` [n]: [n] int64."""
        return np.ones(len(ids), np.int64) if self.counts is None else self.counts[ids % self.examples]

    def rows(self, ids: Index) -> Index:
        """The rows of these examples, one example after another, in their order."""
        if self.counts is None:
            return ids % self.examples
        return self.from_first(self._starts[ids % self.examples], ids)

    def example_of(self, row: int) -> int:
        """The example that a row belongs to."""
        if self.counts is None:
            return row % self.examples
        return int(np.searchsorted(self._starts + self.counts, row, side="right"))

    def from_first(self, starts: Index, ids: Index) -> Index:
        """The rows of the examples `ids` [n] whose first rows are at `starts` [n], one after another."""
        return starts if self.counts is None else stretches(starts, self.of(ids))

    def within(self, ids: Index, chosen: Index) -> Index:
        """Among the rows of `ids` [n], one example after another, those of the examples `ids[chosen]`."""
        return chosen if self.counts is None else stretches(self.edges(ids)[chosen], self.of(ids[chosen]))

    def repeated(self, values: Index, ids: Index) -> Index:
        """Repeat one value per example `ids` [n] for each row of the example."""
        return values if self.counts is None else np.repeat(values, self.of(ids))

    def span(self, examples: slice) -> slice:
        """The rows of consecutive examples, some of which may have none."""
        edges = self.edges(np.arange(self.examples))
        first, end, _ = examples.indices(self.examples)
        return slice(int(edges[first]), int(edges[max(first, end)]))

    def edges(self, ids: Index) -> Index:
        """Offsets of the rows of each of these examples, and the end of the last: [n + 1], from 0."""
        if self.counts is None:
            return np.arange(len(ids) + 1)
        return edges_of(self.of(ids))
