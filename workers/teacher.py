"""A teacher: one or several trained members that answer with their weighted, softened probabilities.

`Teacher` is plain and runs anywhere; `TeacherActor` puts it behind Ray and reads the transfer set there, so that
indices travel and examples do not. Answers are sums of the hosted members' contributions in fixed point (see
`workers.ensemble`), so it does not matter which members share an actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import checkpoints, ensemble, evaluate, models
from workers.data import Dataset
from workers.errors import RunError
from workers.inputs import as_tensor
from workers.specs import ModelSpec

MICRO_BATCH = 1024
"""Examples a forward pass. Part of what the numbers depend on, so it is one figure and recorded with the store."""


@dataclass(frozen=True)
class Member:
    """One trained network: `weights` is the URI of its safetensors."""

    name: str
    model: ModelSpec
    weights: str


def load(member: Member) -> nn.Module:
    """The member's module with its weights, in evaluation mode."""
    module = models.build(member.model)
    checkpoints.load(module, member.weights)
    return module.eval()


class Teacher:
    """Members on one device. `modules` maps a member's name to its module."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.device = evaluate.device()
        self.modules = {name: module.to(self.device).eval() for name, module in modules.items()}

    @torch.no_grad()
    def soften(self, x: Tensor, *, temperature: float, weights: Mapping[str, float], combine: str) -> Tensor:
        """Sum over the hosted members of their contributions, p_k = softmax(v_k / T).

        x: [N, ...] as the models take it. weights: each hosted member's, of weights that sum to 1 over all
        members everywhere. Returns [N, K] int64 fixed point on the CPU; `ensemble.mean` of the sum of all
        teachers' answers is the soft target.
        """
        answers = []
        for rows in x.split(MICRO_BATCH):
            batch = rows.to(self.device)
            answer: Tensor | None = None
            for name, module in self.modules.items():
                probabilities = torch.softmax(module(batch).float() / temperature, dim=-1)
                if not torch.isfinite(probabilities).all():
                    raise RunError(f"{name} answers NaN or infinity. Train or choose it anew; its weights do not work.")
                part = ensemble.contribution(probabilities, weights[name], combine)
                answer = part if answer is None else answer.add_(part)
            assert answer is not None, "a teacher hosts at least one member"
            answers.append(answer.cpu())
        return torch.cat(answers)


@ray.remote
class TeacherActor:
    """A `Teacher` behind Ray. Loses nothing when it is started again: it only reads."""

    def __init__(self, members: list[Member], data: Dataset, threads: int) -> None:
        torch.set_num_threads(threads)
        self.x = data.transfer.x
        self.teacher = Teacher({member.name: load(member) for member in members})

    def ready(self) -> list[str]:
        """The names of the hosted members, once they are loaded."""
        return list(self.teacher.modules)

    def soften(
        self, start: int, stop: int, temperature: float, weights: dict[str, float], combine: str
    ) -> NDArray[np.int64]:
        """`Teacher.soften` of the transfer set's rows `start` to `stop`: [stop - start, K] int64."""
        x = as_tensor(self.x[start:stop])
        answer: NDArray[np.int64] = self.teacher.soften(
            x, temperature=temperature, weights=weights, combine=combine
        ).numpy()
        return answer
