"""Attention in a training in bfloat16 on a CPU: by separate products where sequences are short."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from tests.makers import in_memory
from workers.data.dataset import Split
from workers.models import attention
from workers.models.precision import autocast
from workers.specs.base import Precision
from workers.specs.training import TrainingSpec
from workers.training import loop

CPU = torch.device("cpu")
FUSED = "FlashAttention"


def of_length(length: int, seed: int = 0) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, length, 8, generator=drawn, requires_grad=True) for _ in range(3)]


def answered(given: list[Tensor], precision: Precision, **keywords: bool) -> Tensor:
    with attention.for_training(CPU, precision), autocast(CPU, precision):
        if keywords.get("named"):
            return scaled_dot_product_attention(query=given[0], key=given[1], value=given[2])
        return scaled_dot_product_attention(*given)


def is_fused(answer: Tensor) -> bool:
    seen, rest = set(), [answer.grad_fn]
    while rest:
        node = rest.pop()
        if node is not None and node not in seen:
            seen.add(node)
            rest += [each for each, _ in node.next_functions]
    return any(FUSED in node.name() for node in seen)


@pytest.mark.parametrize(
    ("length", "precision", "fused"),
    [
        (attention.SHORT, "bfloat16", False),
        (attention.SHORT + 1, "bfloat16", True),
        (attention.SHORT, "float32", True),
        (attention.SHORT, "auto", True),  # float32 on a CPU
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_short_sequences_in_bfloat16_are_not_fused(length: int, precision: Precision, fused: bool, named: bool) -> None:
    assert is_fused(answered(of_length(length), precision, named=named)) is fused


def test_the_gradients_are_those_of_fused_attention() -> None:
    given, same = of_length(24), of_length(24)
    answered(given, "bfloat16").float().square().sum().backward()
    with autocast(CPU, "bfloat16"):
        fused = scaled_dot_product_attention(*same)
    assert is_fused(fused)
    fused.float().square().sum().backward()
    for one, other in zip(given, same, strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=0.1, atol=0.05)


class Layer(nn.Module):
    """A layer whose activations may be computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor, again: bool) -> Tensor:
        found: Tensor = checkpoint(self.inner, x, use_reentrant=False) if again else self.inner(x)
        return found


def test_checkpointed_layers_are_computed_again_in_the_same_way() -> None:
    torch.manual_seed(0)
    layer, x, grads = Layer(), torch.randn(2, 12, 16), []
    for again in (False, True):
        layer.zero_grad()
        with attention.for_training(CPU, "bfloat16"):
            with autocast(CPU, "bfloat16"):
                answer = layer(x, again)
            answer.float().square().sum().backward()
        grads.append([each.grad.clone() for each in layer.parameters() if each.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 0
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


class Recorder(nn.Module):
    """A network of one attention, which notes of each answer that will have a backward pass whether it is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(4, 24), nn.Linear(8, 3)
        self.fused: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, 1, 8)).transpose(1, 3).unbind(2)
        answer = scaled_dot_product_attention(query, key, value)
        if answer.requires_grad:
            self.fused.append(is_fused(answer))
        found: Tensor = self.head(answer.mean((1, 2)))
        return found


@pytest.mark.parametrize(("precision", "fused"), [("bfloat16", False), ("float32", True)])
def test_the_steps_of_a_training(precision: Precision, fused: bool) -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.normal(size=(16, 6, 4)).astype(np.float32), rng.integers(0, 3, 16))
    spec = TrainingSpec(epochs=1, batch_size=8, learning_rate=0.1, precision=precision)
    network = Recorder()
    task = loop.Task(in_memory(split, np.full((16, 3), 1 / 3, np.float32), temperature=1.0), split)
    for _ in loop.epochs(loop.begin(network, spec, len(split)), task, spec, seed=0):
        pass
    assert network.fused == [fused, fused]
