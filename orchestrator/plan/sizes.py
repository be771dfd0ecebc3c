"""Estimates of the bytes that a run stores and holds in memory, by arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.run_config import RunConfig
from orchestrator.plan.facts import DataFacts
from workers.data.arrays import micro_batch
from workers.targets.kinds import DTYPES
from workers.targets.layout import LARGEST_PART, PartLayout, part_rows, piece_rows
from workers.targets.member_logits import bytes_of
from workers.targets.member_mixture import row_bytes
from workers.targets.top_k import bytes_per_row
from workers.training.loader import cached_parts

TEXT_PASSES = 16
"""Forward passes of a part of texts: a network of texts takes long for an example, and a resumed run loses a part."""


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes.

    soft_targets, logits: in storage; logits are 0 where none are stored. held_by_worker: memory of a student's worker
    while it mixes parts. answers: outputs that teachers send per
    example.
    """

    soft_targets: int
    logits: int
    held_by_worker: int
    answers: int


def layout(config: RunConfig, data: DataFacts) -> PartLayout:
    """The division of the store: parts by the size of stored rows, pieces by the size of the teachers' outputs."""
    top_k, dtype = config.distillation.top_k, config.distillation.dtype
    row_bytes = None if top_k is None else bytes_per_row(top_k, DTYPES[dtype])
    most = TEXT_PASSES * micro_batch(data.values, data.embedded) if data.embedded > 1 else LARGEST_PART
    rows = part_rows(data.classes, row_bytes, data.positions, most)
    return PartLayout(data.examples, rows, data.views, piece_rows(data.classes, data.positions, most))


def sizes(config: RunConfig, data: DataFacts, members: int) -> Sizes:
    """The sizes for an ensemble of this many members."""
    spec, rows = config.distillation, round(data.examples * data.views * data.positions)
    width = DTYPES[spec.dtype].itemsize
    row = width * data.classes if spec.top_k is None else bytes_per_row(spec.top_k, DTYPES[spec.dtype])
    in_memory = row_bytes(members, data.classes) if spec.is_scheduled else row + 12
    parts, of_example = layout(config, data), in_memory * data.positions
    of_each = members if config.ensemble.needs_each else 1
    return Sizes(
        soft_targets=rows * row,
        logits=bytes_of(members, rows, data.classes) if spec.keeps_logits else 0,
        held_by_worker=round(cached_parts(parts, of_example) * parts.rows * of_example),
        answers=round(4 * data.classes * data.positions) * of_each,
    )
