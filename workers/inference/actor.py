"""A teacher as a Ray actor. It reads the transfer set itself, so that requests carry indices and not examples."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import faults, processes, telemetry
from workers.data.arrays import Index
from workers.data.collate import Inputs
from workers.data.dataset import Dataset
from workers.data.examples import Columns, by_length, values_of
from workers.errors import RunError
from workers.inference.teacher import RESIDENT_BYTES, Asked, Batches, Member, Teacher, load
from workers.models import predictor
from workers.processes import Where
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.soft_targets import Numerics

PROBE_VALUES = 2**18
TOGETHER_BYTES = 2**29
"""Most bytes of inputs and answers in main memory for pieces that share a turn of the members on a GPU."""
REPEATABLE, REPEATABLE_ON_GPU = 1e-4, 0.05
"""Largest difference between two computations of the same probabilities. GPU kernels may add in another order each
time, and rounding to bfloat16 amplifies the difference."""


def probe_rows(classes: int) -> int:
    """Number of examples on which a starting teacher is probed."""
    return max(1, min(256, PROBE_VALUES // classes))


@dataclass(frozen=True)
class TeacherWork:
    """Settings of every teacher of a pass. kept: caches of members' logits, by member; run: the run's name."""

    class_count: int
    """Not `classes`: a method that names it beside `torch` drags `torch.classes` into Ray's pickle, which fails."""
    layout: PartLayout
    numerics: Numerics
    kept: Mapping[str, MemberLogits] = field(default_factory=dict)
    run: str = ""


@dataclass(frozen=True)
class Started:
    """A teacher that has started: how it computes, and its process and node."""

    stacked: bool
    where: Where
    part_s: float
    """Upper estimate of the time for a part, from a few examples, which take longer each."""
    probes: dict[str, NDArray[np.float32]]
    """Each member's probabilities of the first examples of the first part: [n, K] at T = 1."""


@ray.remote
class TeacherActor:
    """A `Teacher` as a Ray actor. A restart loses nothing, since the actor has no state of its own.

    Its methods re-raise exceptions as a `Fault`. The first method call loads the members, since Ray passes on only
    the text of an exception in `__init__`.
    """

    def __init__(self, members: list[Member], data: Dataset, work: TeacherWork) -> None:
        telemetry.label(work.run)
        torch.set_num_threads(work.numerics.threads)
        self.x, self.positions = data.transfer.x, data.transfer.rows
        self.numbering = data.numbering
        self.layout = work.layout
        self.kept = {member.name: work.kept[member.name] for member in members if member.name in work.kept}
        self.members, self.numerics, self.class_count = members, work.numerics, work.class_count
        self.collators = {member.name: predictor.collator(member.model) for member in members}
        self._teacher: Teacher | None = None
        self.answers: dict[int, NDArray[Any]] = {}
        """Prefetched answers, computed together with an earlier piece."""
        self.answered_for: tuple[Any, ...] = ()
        """The temperature, weights and rule of the prefetched answers."""

    @property
    def teacher(self) -> Teacher:
        """The teacher; loads the members on first use."""
        if self._teacher is None:
            loaded = {}
            for member in self.members:
                with faults.caught(member.name):
                    loaded[member.name] = load(member)
            numerics = self.numerics
            device = torch.device(numerics.device)  # the device that parts record
            self._teacher = Teacher(
                loaded,
                numerics.precision,
                micro_batch=numerics.micro_batch,
                bits=numerics.bits,
                classes=self.class_count,
                device=device,
                collators=self.collators,
            )
        return self._teacher

    @faults.raises_faults
    def ready(self, stack: bool | None) -> Started:
        """Load the members, decide on stacking, and probe them. stack: None to take the faster way.

        Raises: `RunError` where a member's outputs are not repeatable.
        """
        ids = self.layout.piece_ids(0)[: self.teacher.micro_batch]
        stacked = self.teacher.prepare(stack, self._gather(ids))
        shown = ids[: probe_rows(self.teacher.classes)]
        few = self._gather(shown)
        first = self.teacher.probe(few)
        started = time.perf_counter()
        again = self.teacher.probe(few)
        together = len(self._together(0, range(1, self.layout.parts)))
        part_s = (time.perf_counter() - started) * len(self.layout.piece_ids(0)) / len(shown) * together
        for name, answer in first.items():
            apart = float(np.abs(answer - again[name]).max())
            if apart > (REPEATABLE if self.teacher.device.type == "cpu" else REPEATABLE_ON_GPU):  # false for NaN
                raise RunError(
                    f"{name} answers the same examples differently each time, by up to {apart:.2g}. Expected a network "
                    "that in evaluation mode draws nothing at random."
                )
        return Started(stacked, processes.here(), part_s, first)

    @faults.raises_faults
    @ray.method(num_returns=2)  # innermost, since Ray reads it from the unwrapped function
    def soften(
        self, piece: int, temperature: float, weights: dict[str, float], combine: str | None, ahead: Sequence[int] = ()
    ) -> tuple[int, NDArray[Any]]:
        """`Teacher.soften_all` for one piece: the number of rows, and the answer.

        The answer is [rows, K] fixed point or [members, rows, K] logits, in the piece's order. ahead: the next pieces
        of this teacher. Where members take turns on the device, the teacher computes some of them along with this one.
        """
        began = time.perf_counter()
        asked = (temperature, weights, combine)
        if self.answered_for != asked:
            self.answered_for, self.answers = asked, {}
        if piece not in self.answers:
            self.answers = {number: self.answers[number] for number in ahead if number in self.answers}
            others = [number for number in ahead if number not in self.answers]
            self.answers |= self._answered(self._together(piece, others), *asked)
        answer = self.answers.pop(piece)
        busy_s = time.perf_counter() - began
        for name in weights:
            telemetry.count(telemetry.TEACHER_BUSY_S, busy_s, member=name)
        return answer.shape[-2], answer

    def _together(self, piece: int, ahead: Sequence[int]) -> list[int]:
        """This piece and the next ones to compute with it: none where all members stay on the device."""
        if not self.teacher.takes_turns:
            return [piece]
        of_row = self.teacher.classes * self.teacher.fixed_point.itemsize
        row = values_of(self.x) * 4 + math.ceil(self.positions.mean * of_row)
        fit = TOGETHER_BYTES // max(1, row * len(self.layout.piece_ids(piece)))
        return [piece, *ahead][: max(1, fit)]

    def _answered(
        self, pieces: Sequence[int], temperature: float, weights: dict[str, float], combine: str | None
    ) -> dict[int, NDArray[Any]]:
        """Compute the answers to some pieces, in cuts that limit the size of inputs, and write logits to the caches."""
        ids = {piece: self.layout.piece_ids(piece) for piece in pieces}
        # the first tokenizer of the run, so that an answer does not depend on which members share the actor
        tokens = next(iter(self.x.derived), None) if isinstance(self.x, Columns) else None
        orders = {piece: by_length(self.x, ids[piece], tokens) for piece in pieces}
        known = {piece: self._ordered(self._known(piece), ids[piece], orders[piece]) for piece in pieces}
        back = {piece: self._back(ids[piece], order) for piece, order in orders.items()}
        ids = {piece: own if orders[piece] is None else own[orders[piece]] for piece, own in ids.items()}
        cuts = [(piece, rows) for piece in pieces for rows in self._cuts(len(ids[piece]))]
        step = TOGETHER_BYTES // RESIDENT_BYTES if self.teacher.takes_turns else 1
        step = len(cuts) if len(pieces) > 1 else step
        asked: list[Asked] = []
        found: list[Tensor] = []
        for some in (cuts[start : start + step] for start in range(0, len(cuts), step)):
            these = [self._asked(ids[piece], rows, known[piece]) for piece, rows in some]
            found += self.teacher.soften_all(these, temperature=temperature, weights=weights, combine=combine)
            asked += [Asked(torch.empty(0), computed=each.computed) for each in these]
        for piece in pieces:
            computed = [a.computed or {} for (own, _), a in zip(cuts, asked, strict=True) if own == piece]
            self._keep(piece, computed, back[piece])
        of_pieces: dict[int, list[Tensor]] = {piece: [] for piece in pieces}
        for (piece, _), answer in zip(cuts, found, strict=True):
            of_pieces[piece].append(answer)
        together = {piece: torch.cat(answers, dim=-2) for piece, answers in of_pieces.items()}
        return {piece: _rows(answers, back[piece]).numpy() for piece, answers in together.items()}

    def _ordered(self, known: dict[str, Tensor], ids: Index, order: Index | None) -> dict[str, Tensor]:
        """Cached logits of a piece in the order in which its examples are computed."""
        if order is None:
            return known
        rows = torch.from_numpy(self.positions.within(ids, order))
        return {name: logits[rows] for name, logits in known.items()}

    def _back(self, ids: Index, order: Index | None) -> Tensor | None:
        """Where each row of a piece is among its rows in `order`; None where they are the same."""
        return None if order is None else torch.from_numpy(np.argsort(self.positions.within(ids, order)))

    def _known(self, piece: int) -> dict[str, Tensor]:
        """The members' logits that are cached for a piece."""
        found: dict[str, Tensor] = {}
        for name, kept in self.kept.items():
            with faults.caught(name):
                logits = kept.read(piece)
            if logits is not None:
                found[name] = logits
        return found

    def _asked(self, ids: Index, cut: slice, known: dict[str, Tensor]) -> Asked:
        """The request for a cut of a piece's examples `ids`. known: cached logits for the rows of the piece."""
        edges = self.positions.edges(ids)
        rows = slice(int(edges[cut.start]), int(edges[cut.stop]))
        nothing_to_compute = len(known) == len(self.teacher.predictors)
        x = torch.empty(rows.stop - rows.start, 0) if nothing_to_compute else self._gather(ids[cut])
        return Asked(x, {name: logits[rows] for name, logits in known.items()}, {} if self.kept else None)

    def _keep(self, piece: int, computed: Sequence[dict[str, Tensor]], back: Tensor | None) -> None:
        """Write the computed logits of a piece to the caches. Rows are identified by the user's example ids."""
        names = self.numbering.of(self.layout.piece_ids(piece))
        for name in self.kept.keys() & computed[0].keys():
            with faults.caught(name):
                logits = torch.cat([each[name] for each in computed])
                self.kept[name].write(piece, names, _rows(logits, back))

    def _gather(self, ids: Index) -> Inputs | Batches:
        """Inputs in main memory, in a narrow dtype where they go to a GPU."""
        narrow = self.teacher.device.type == "cuda"
        made = {collator: collator(self.x, ids, narrow=narrow) for collator in {*self.collators.values()}}
        return made if len(made) > 1 else next(iter(made.values()))

    def _cuts(self, rows: int) -> list[slice]:
        """Cut a piece's rows to limit the size of inputs. Cuts are whole micro-batches, so that no bit changes."""
        wide = 4 * values_of(self.x)
        step = max(1, RESIDENT_BYTES // max(wide, 1) // self.teacher.micro_batch) * self.teacher.micro_batch
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _rows(answers: Tensor, rows: Tensor | None) -> Tensor:
    """Some rows of answers [..., rows, K]; all of them for None."""
    return answers if rows is None else answers.index_select(-2, rows)
