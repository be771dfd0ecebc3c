"""A store of given soft targets, for benchmarks of a student that measure no teachers."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.data.numbering import RowNames
from workers.targets import kinds, soft_targets
from workers.targets.layout import PartLayout, part_rows
from workers.targets.soft_targets import Numerics, Part


def layout(rows: int, classes: int) -> PartLayout:
    """The parts of a store of this many examples."""
    return PartLayout(rows, part_rows(classes))


def write(store: str, soft: Tensor, micro_batch: int) -> list[Part]:
    """Write the soft targets [N, K] as float16. micro_batch: what the parts say of the teachers' batches."""
    numerics = Numerics(device="cpu", precision="float32", threads=1, micro_batch=micro_batch)
    parts, found = layout(*soft.shape), []
    for number in range(parts.parts):
        ids = parts.ids(number)
        stored = kinds.of_mean(soft[torch.from_numpy(ids)], "float16", None)
        found.append(soft_targets.write_part(store, number, RowNames(ids), stored, members=["mean"], numerics=numerics))
    return found
