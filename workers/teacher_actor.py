"""A teacher behind Ray. It reads the transfer set itself, so that indices travel and examples do not."""

from __future__ import annotations

from typing import Any

import ray
import torch
from numpy.typing import NDArray

from workers.data import Dataset
from workers.inputs import gather
from workers.kept_logits import KeptLogits
from workers.order import Layout
from workers.soft_targets import Numerics
from workers.teacher import Member, Teacher, load


@ray.remote
class TeacherActor:
    """A `Teacher` behind Ray. Loses nothing when it is started again: it only reads."""

    def __init__(
        self, members: list[Member], data: Dataset, layout: Layout, numerics: Numerics, kept: dict[str, KeptLogits]
    ) -> None:
        """`kept` says for each member where its logits are kept; empty where they are not."""
        torch.set_num_threads(numerics.threads)
        self.x = data.transfer.x
        self.layout = layout
        self.kept = {member.name: kept[member.name] for member in members if member.name in kept}
        modules = {member.name: load(member) for member in members}
        self.teacher = Teacher(modules, numerics.precision, numerics.micro_batch, numerics.bits)

    def ready(self, stack: bool | None) -> bool:
        """Once the members are loaded: whether they are computed stacked, as asked or as is faster (None)."""
        return self.teacher.prepare(stack, gather(self.x, self.layout.ids(0)[: self.teacher.micro_batch]))

    @ray.method(num_returns=2)
    def soften(
        self, part: int, temperature: float, weights: dict[str, float], combine: str
    ) -> tuple[int, NDArray[Any]]:
        """`Teacher.soften` of a part's examples, in its order: [rows, K] fixed point, and before it the rows alone."""
        ids = self.layout.ids(part)
        found = {name: self.kept[name].read(part) for name in self.kept}
        known = {name: logits for name, logits in found.items() if logits is not None}
        x = torch.empty(len(ids), 0) if len(known) == len(self.teacher.modules) else gather(self.x, ids)
        answer: NDArray[Any] = self.teacher.soften(
            x,
            temperature=temperature,
            weights=weights,
            combine=combine,
            known=known,
            keep=(lambda name, logits: self.kept[name].write(part, ids, logits)) if self.kept else None,
        ).numpy()
        return len(answer), answer
