"""Teachers' answers -> a part of the store: the mean, its compression and the writing, wherever that is done.

On the driver where answers are small; as a Ray task beside the teachers where they are large, so that the softmax of a
large vocabulary never passes through the driver. One function, the same bytes.

What teachers answer goes there by Ray's object store. Ray Direct Transport is three times as fast between processes
(gloo, 120 MB a teacher), but Ray 2.60 kills both ends of a transfer that fails, so that a lost teacher would take
healthy ones with it, against what `on_member_loss` promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from numpy.typing import NDArray

from workers import ensemble, soft_targets
from workers.inputs import Index
from workers.numbering import Numbering, Views
from workers.order import Layout
from workers.soft_targets import Numerics, Part


@dataclass(frozen=True)
class Assembly:
    """How parts are made: where they go, the rule of the mean, what of it is kept, and how examples are called."""

    folder: str
    layout: Layout
    classes: int
    combine: str
    dtype: str
    top_k: int | None
    numerics: Numerics
    numbering: Numbering

    def part(self, number: int, members: Sequence[str], *answers: NDArray[Any]) -> Part:
        """Add the teachers' answers, each [rows, K] in fixed point; write what they come to."""
        return self.task(number).write(members, *answers)

    def task(self, number: int) -> PartTask:
        """One part's share of this, without the numbering of the others."""
        ids = self.layout.ids(number)
        return PartTask(
            folder=self.folder,
            number=number,
            example_ids=self.numbering.example_ids(ids),
            views=self.numbering.view_of(ids),
            combine=self.combine,
            dtype=self.dtype,
            top_k=self.top_k,
            numerics=self.numerics,
        )


@dataclass(frozen=True)
class PartTask:
    """What has to be known to make one part, in whatever process. example_ids, views: [rows]."""

    folder: str
    number: int
    example_ids: Index
    views: Views | None
    combine: str
    dtype: str
    top_k: int | None
    numerics: Numerics

    def write(self, members: Sequence[str], *answers: NDArray[Any]) -> Part:
        """Add the teachers' answers, each [rows, K] in fixed point; write what they come to."""
        total = answers[0].copy()
        for answer in answers[1:]:
            total += answer
        mean = ensemble.mean(torch.from_numpy(total), self.combine).to(torch.float32)
        targets = soft_targets.compressed(mean, self.dtype, self.top_k)
        return soft_targets.write_part(
            self.folder, self.number, self.example_ids, targets, members, self.numerics, self.views
        )


@ray.remote(num_cpus=0, max_retries=3)
def part_beside_teachers(task: PartTask, members: Sequence[str], *answers: NDArray[Any]) -> Part:
    """`PartTask.write` in a process of its own, which Ray places where the answers are."""
    return task.write(members, *answers)
