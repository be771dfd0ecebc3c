"""Turns teachers' answers into a part of the store: computes the mean, compresses and writes it.

This happens on the driver where answers are small, and in Ray tasks beside the teachers where they are large. So the
softmax of a large vocabulary never passes through the driver. A part of compressed rows consists of many pieces. A
task reduces each piece to its largest probabilities on the node of its answers, and sends only those. Both ways use the
same functions, so the bytes are equal.

The answers pass through Ray's object store. Ray Direct Transport is three times as fast between processes (gloo,
120 MB per teacher). But Ray 2.60 kills both ends of a transfer that fails, so a lost teacher would kill healthy ones,
which violates `on_member_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from workers import ensemble, mixture_weights
from workers.data.arrays import Index
from workers.data.numbering import Numbering, RowNames
from workers.specs.members import ExampleRule, SpecialistRule
from workers.targets import kinds, soft_targets
from workers.targets.base import Targets, joined
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import Numerics, Part


@dataclass(frozen=True)
class Rule:
    """The rule that reduces the teachers' answers to a piece."""

    combine: str
    dtype: str = "float32"
    top_k: int | None = None
    temperature: float = 1.0
    weighting: ExampleRule | None = None
    members: Sequence[str] = ()
    """The names of all members in the order of a `SpecialistRule`."""

    def reduce(self, members: Sequence[str], *answers: NDArray[Any]) -> Targets:
        """The soft targets of a piece in their stored form, from the teachers' answers.

        An answer is the sum of a teacher's contributions, [rows, K] in fixed point. With a rule for each example it is
        the logits of the teacher's members, [members, rows, K] float32. members: those that answered, in their order.
        """
        if self.weighting is not None:
            logits, rule = torch.from_numpy(np.concatenate(answers)), self.weighting
            if isinstance(rule, SpecialistRule):
                rule = rule.among([self.members.index(name) for name in members])
            mean = mixture_weights.soft_mean(rule, logits, self.temperature, self.combine)
        else:
            total = answers[0].copy()
            for answer in answers[1:]:
                total += answer
            mean = ensemble.mean32(torch.from_numpy(total), self.combine)
        return kinds.of_mean(mean, self.dtype, self.top_k, self.temperature)


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How to make parts: their folder, the rule for answers, and the numbering of examples."""

    folder: str
    layout: PartLayout
    classes: int
    rule: Rule
    numerics: Numerics
    numbering: Numbering
    reduces_on_workers: bool = False
    """Answers stay on the teachers' nodes, and Ray tasks write the parts there."""

    def task(self, number: int) -> PartTask:
        """The settings for a single part, without the numbering of other parts, so that they are small to send."""
        return PartTask(
            folder=self.folder,
            number=number,
            names=self.numbering.of(self.layout.ids(number)),
            order=self.layout.row_order(number, self.numbering.rows) if len(self.layout.pieces(number)) > 1 else None,
            rule=self.rule,
            numerics=self.numerics,
        )

    def write(self, number: int, members: Sequence[str], pieces: Sequence[Targets]) -> Part:
        """Write a part of the store from the soft targets of all its pieces, in their order."""
        return self.task(number).write(members, pieces)


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """All settings for one part, for any process.

    names: identify the part's rows, in their order. order: [rows], for each row its index in the concatenated pieces;
    None for a part of a single piece, which is already in order.
    """

    folder: str
    number: int
    names: RowNames
    order: Index | None
    rule: Rule
    numerics: Numerics

    def write(self, members: Sequence[str], pieces: Sequence[Targets]) -> Part:
        """Write the part from the soft targets of all its pieces, in their order."""
        targets = pieces[0] if self.order is None else joined(pieces).rows(self.order)
        return soft_targets.write_part(
            self.folder,
            self.number,
            self.names,
            targets,
            members=members,
            numerics=self.numerics,
        )

    def part(self, members: Sequence[str], *answers: NDArray[Any]) -> Part:
        """Make a part of a single piece from the teachers' answers to that piece."""
        return self.write(members, [self.rule.reduce(members, *answers)])


@ray.remote(num_cpus=0, max_retries=3)
def part_beside_teachers(task: PartTask, members: Sequence[str], *answers: NDArray[Any]) -> Part:
    """`PartTask.part` in a separate process, which Ray places on the node of the answers."""
    return task.part(members, *answers)


@ray.remote(num_cpus=0, max_retries=3)
def reduced_beside_teachers(rule: Rule, members: Sequence[str], *answers: NDArray[Any]) -> Targets:
    """`Rule.reduce` in a separate process, which Ray places on the node of the answers."""
    return rule.reduce(members, *answers)
