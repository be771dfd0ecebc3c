"""A member that computes hidden states in an actor of its own, for workers that have no memory for it.

It reads the examples itself, so that requests carry ids and not examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workers import faults
from workers.data.arrays import Index
from workers.data.collate import widened
from workers.data.dataset import Dataset
from workers.device import device
from workers.models import predictor
from workers.models.outputs import Outputs
from workers.signals import Signal
from workers.specs.models import AnyModel
from workers.training import beside
from workers.training.beside import MemberBeside, Wanted


@dataclass(frozen=True, kw_only=True)
class ActorWork:
    """How an actor computes, and of which examples.

    needs: the signals of the terms. student: whose batches the actor builds, as the student's workers do. split: the
    data of a stage; empty for the transfer set. on: the device.
    """

    needs: Sequence[Signal]
    student: AnyModel
    split: str
    threads: int
    on: str


class BesideActor:
    """Answers ids of examples by the member's outputs, in float32 in main memory. It keeps no state between batches."""

    def __init__(self, asked: MemberBeside, work: ActorWork, data: Dataset) -> None:
        torch.set_num_threads(work.threads)
        self.name, self.device = asked.member.name, device(work.on)
        self.x, self.collator = data.of_stage(work.split).x, predictor.collator(work.student)
        module = beside.module_of(asked.member).to(self.device)
        self.answer = beside.of_module(module, frozenset(work.needs), asked.precision)

    def ready(self) -> bool:
        """Whether it has loaded the member."""
        return True

    def outputs(self, ids: Index, wanted: Wanted | None) -> Outputs:
        """The layers that terms compare, of a batch. ids: [b] int64 in the split. wanted: None for all layers."""
        with faults.caught(f"{self.name} (hidden states)"):
            x = self.collator(self.x, ids, narrow=self.device.type == "cuda").to(self.device)
            found = self.answer(widened(x), ids)()
            return (found if wanted is None else found.only(wanted)).to("cpu")
