"""Bare torch loops: a lower bound on the cost of soft targets and of training on them in one process.

They have no checkpoints, validation, logs or resuming, and read arrays in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models import mlp

MEMBER = {"hidden": 512, "layers": 4}
STUDENT = {"hidden": 128, "layers": 2}

Teach = Callable[[Tensor, Tensor], Tensor]
"""(rows [B] int64, inputs [B, D]) -> soft targets [B, K], either looked up by row or computed from the inputs."""


@dataclass(frozen=True)
class Loss:
    """soft_weight * T^2 * CE(p, softmax(z / T)) + hard_weight * CE(y, softmax(z)), as `distillation` in a run."""

    temperature: float = 2.0
    soft_weight: float = 0.5
    hard_weight: float = 0.5


HARD = Loss(soft_weight=0.0, hard_weight=1.0)
"""Without soft targets."""


def load_members(weights: Sequence[Path]) -> list[nn.Module]:
    """Load the teachers in evaluation mode."""
    members = []
    for path in weights:
        member = mlp(**MEMBER)
        member.load_state_dict(load_file(path))
        members.append(member.eval())
    return members


@torch.no_grad()
def mean_of_members(members: Sequence[nn.Module], x: Tensor, temperature: float, combine: str) -> Tensor:
    """Soft targets [B, K] of the inputs [B, D]: the arithmetic mean of probabilities, or the geometric one.

    The geometric mean, renormalised, is the softmax of the mean of the logits.
    """
    if combine == "geometric":
        logits = members[0](x)
        for member in members[1:]:
            logits += member(x)
        return torch.softmax(logits / (temperature * len(members)), dim=-1)
    total = torch.softmax(members[0](x) / temperature, dim=-1)
    for member in members[1:]:
        total += torch.softmax(member(x) / temperature, dim=-1)
    return total / len(members)


def soft_target_pass(
    members: Sequence[nn.Module], x: Tensor, temperature: float, combine: str = "arithmetic", batch_size: int = 1024
) -> Tensor:
    """Compute the soft targets of all of `x`, [N, K], in RAM."""
    return torch.cat([mean_of_members(members, batch, temperature, combine) for batch in x.split(batch_size)])


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    teach: Teach | None = None,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float = 1e-3,
) -> list[float]:
    """Train `model` in place, on labels, or also on soft targets. Yields the seconds of each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    seconds = []
    model.train()
    for _ in range(epochs):
        started = time.perf_counter()
        for rows in torch.randperm(len(x)).split(batch_size):
            batch = x[rows]
            soft = None if teach is None else teach(rows, batch)
            optimizer.zero_grad(set_to_none=True)
            distillation_loss(model(batch), y[rows], soft, loss).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def distillation_loss(logits: Tensor, y: Tensor, soft: Tensor | None, loss: Loss) -> Tensor:
    """The mean over the batch; logits and soft targets [B, K], labels [B]."""
    terms = []
    if soft is not None and loss.soft_weight:
        soft_term = functional.cross_entropy(logits / loss.temperature, soft) * loss.temperature**2
        terms.append(loss.soft_weight * soft_term)
    if loss.hard_weight:
        terms.append(loss.hard_weight * functional.cross_entropy(logits, y))
    return torch.stack(terms).sum() if len(terms) > 1 else terms[0]


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of examples whose most likely class is correct."""
    model.eval()
    right = sum(int((model(a).argmax(-1) == b).sum()) for a, b in zip(x.split(1024), y.split(1024), strict=True))
    return right / len(x)
