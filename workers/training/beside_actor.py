"""A member that computes hidden states in an actor of its own, for workers that have no memory for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers import faults
from workers.data.collate import Inputs
from workers.device import device
from workers.models.outputs import Outputs
from workers.signals import Signal
from workers.training import beside
from workers.training.beside import MemberBeside, Wanted


class BesideActor:
    """Answers each batch by the member's outputs, in float32 in main memory. It keeps no state between batches."""

    def __init__(self, asked: MemberBeside, needs: Sequence[Signal], threads: int, on: str) -> None:
        """on: the device."""
        torch.set_num_threads(threads)
        self.name, self.device = asked.member.name, device(on)
        module = beside.module_of(asked.member).to(self.device)
        self.answer = beside.of_module(module, frozenset(needs), asked.precision)

    def ready(self) -> bool:
        """Whether it has loaded the member."""
        return True

    def outputs(self, x: Inputs, wanted: Wanted | None) -> Outputs:
        """The layers that terms compare, of a batch. wanted: None for all layers."""
        with faults.caught(f"{self.name} (hidden states)"):
            found = self.answer(x.to(self.device))()
            return (found if wanted is None else found.only(wanted)).to("cpu")
