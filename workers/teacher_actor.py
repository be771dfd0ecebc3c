"""A teacher behind Ray. It reads the transfer set itself, so that indices travel and examples do not."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import faults, metrics, processes
from workers.data import Dataset
from workers.errors import RunError
from workers.inputs import gather
from workers.kept_logits import KeptLogits
from workers.order import Layout
from workers.processes import Where
from workers.soft_targets import Numerics
from workers.teacher import RESIDENT_BYTES, Member, Teacher, load

PROBE_VALUES = 2**18
REPEATABLE, REPEATABLE_ON_GPU = 1e-4, 0.05
"""How far probabilities of the same examples may be apart: kernels of a GPU may add in another order each time, and a
sum in bfloat16 then be rounded elsewhere."""


def probe_rows(classes: int) -> int:
    """How many examples a teacher is tried on when it starts."""
    return max(1, min(256, PROBE_VALUES // classes))


@dataclass(frozen=True)
class Started:
    """A teacher that is up: how it computes, and which process of which node it is."""

    stacked: bool
    where: Where
    part_s: float
    """About how long a part takes it, at most: few examples take longer each."""
    probes: dict[str, NDArray[np.float32]]
    """What each member says of the first examples of the first part: probabilities [n, K] at T = 1."""


@ray.remote
class TeacherActor:
    """A `Teacher` behind Ray. Loses nothing when it is started again: it only reads.

    Exceptions leave its methods as a `Fault`. Members are loaded by the first method, since of an exception of
    `__init__` Ray hands on nothing but text.
    """

    def __init__(
        self,
        members: list[Member],
        data: Dataset,
        classes: int,
        layout: Layout,
        numerics: Numerics,
        kept: dict[str, KeptLogits],
        run: str = "",
    ) -> None:
        """`kept` says for each member where its logits are kept; empty where they are not. run: its name."""
        metrics.label(run)
        torch.set_num_threads(numerics.threads)
        self.x = data.transfer.x
        self.numbering = data.numbering
        self.layout = layout
        self.kept = {member.name: kept[member.name] for member in members if member.name in kept}
        self.members, self.numerics, self.class_count = members, numerics, classes
        self._teacher: Teacher | None = None

    @property
    def teacher(self) -> Teacher:
        """The members, loaded."""
        if self._teacher is None:
            modules = {}
            for member in self.members:
                with faults.caught(member.name):
                    modules[member.name] = load(member)
            numerics = self.numerics
            self._teacher = Teacher(modules, numerics.precision, numerics.micro_batch, numerics.bits, self.class_count)
        return self._teacher

    @faults.raises_faults
    def ready(self, stack: bool | None) -> Started:
        """Once the members are loaded, and it is settled whether they are computed stacked: as asked, or as is faster
        (None)."""
        x = gather(self.x, self.layout.ids(0)[: self.teacher.micro_batch])
        stacked = self.teacher.prepare(stack, x)
        shown = x[: probe_rows(self.teacher.classes)]
        first = self.teacher.probe(shown)
        started = time.perf_counter()
        again = self.teacher.probe(shown)
        part_s = (time.perf_counter() - started) * len(self.layout.ids(0)) / len(shown)
        for name, answer in first.items():
            apart = float(np.abs(answer - again[name]).max())
            if apart > (REPEATABLE if self.teacher.device.type == "cpu" else REPEATABLE_ON_GPU):  # not for NaN
                raise RunError(
                    f"{name} answers the same examples differently each time, by up to {apart:.2g}. Expected a network "
                    "that in evaluation mode draws nothing at random."
                )
        return Started(stacked, processes.here(), part_s, first)

    @faults.raises_faults  # type: ignore[arg-type]  # of Ray's stub, which hides the function
    @ray.method(num_returns=2)  # innermost: Ray reads it from the unwrapped function
    def soften(
        self, part: int, temperature: float, weights: dict[str, float], combine: str
    ) -> tuple[int, NDArray[Any]]:
        """`Teacher.soften` of a part's examples, in its order: [rows, K] fixed point, and before it the rows alone."""
        began = time.perf_counter()
        ids = self.layout.ids(part)
        known: dict[str, Tensor] = {}
        for name, kept in self.kept.items():
            with faults.caught(name):
                logits = kept.read(part)
            if logits is not None:
                known[name] = logits
        nothing_to_compute = len(known) == len(self.teacher.modules)
        said: dict[str, list[Tensor]] = defaultdict(list)
        answers = [
            self.teacher.soften(
                torch.empty(rows.stop - rows.start, 0) if nothing_to_compute else gather(self.x, ids[rows]),
                temperature=temperature,
                weights=weights,
                combine=combine,
                known={name: logits[rows] for name, logits in known.items()},
                keep=(lambda name, logits: said[name].append(logits)) if self.kept else None,
            )
            for rows in self._cuts(len(ids))
        ]
        for name, computed in said.items():
            with faults.caught(name):
                logits = torch.cat(computed)
                self.kept[name].write(part, self.numbering.example_ids(ids), logits, self.numbering.view_of(ids))
        answer: NDArray[Any] = (answers[0] if len(answers) == 1 else torch.cat(answers)).numpy()
        busy_s = time.perf_counter() - began
        for name in weights:
            metrics.count(metrics.TEACHER_BUSY_S, busy_s, member=name)
        return len(answer), answer

    def _cuts(self, rows: int) -> list[slice]:
        """A part's rows, so many at a time that their inputs stay small; whole micro-batches, so no bit changes."""
        wide = 4 * math.prod(self.x.shape[1:])
        step = max(1, RESIDENT_BYTES // max(wide, 1) // self.teacher.micro_batch) * self.teacher.micro_batch
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
