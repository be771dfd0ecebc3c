"""The cost of a network by its shapes: parameters, operations of a forward pass, bytes kept for the backward pass.

Forward passes of a few examples and of twice as many count them, so that what a batch of any size takes, such as a
normalised weight, is no cost of an example. None of the figures depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from workers.data.arrays import spread
from workers.data.collate import Inputs
from workers.data.examples import Examples
from workers.models import operations, predictor
from workers.models.ask import ask
from workers.seeds import seeded
from workers.specs.models import AnyModel, Network

EXAMPLES = 4
"""Examples of the first counted pass; a few, since texts differ in length."""
LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)
"""Layers that read some rows of their weights, and compute nothing."""


@dataclass(frozen=True)
class Profile:
    """The cost of a model.

    parameters: number. weight_bytes: their size. forward_flops: floating-point operations of a forward pass of one
    example. activation_bytes: what autograd keeps of one example until the backward pass.
    """

    parameters: int
    weight_bytes: int
    forward_flops: float
    activation_bytes: float


def profile(model: AnyModel, x: Examples) -> Profile | None:
    """Profile a network on examples of `x`; None for a model of another library, whose operations cannot be counted."""
    if not isinstance(model, Network):
        return None
    with seeded(0):
        module = predictor.kind_of(model).made(model).train()
        rows = spread(len(x), EXAMPLES)
        (flops, kept), (twice, kept_twice) = (
            _counted(module, predictor.collator(model)(x, ids)) for ids in (rows, np.concatenate([rows, rows]))
        )
    parameters = list(module.parameters())
    if not flops:  # an operation of the user's own: each weight is used once, but for those that are looked up
        looked_up = sum(each.weight.numel() for each in module.modules() if isinstance(each, LOOK_UPS))
        flops, twice = 0, 2 * len(rows) * (sum(each.numel() for each in parameters) - looked_up)
    return Profile(
        parameters=sum(each.numel() for each in parameters),
        weight_bytes=sum(each.nbytes for each in parameters),
        forward_flops=_of_more(flops, twice) / len(rows),
        activation_bytes=_of_more(kept, kept_twice) / len(rows),
    )


def _of_more(once: int, twice: int) -> int:
    """What so many examples add; where that is nothing, the second pass has left out layers at random."""
    return twice - once if twice > once else once


def _counted(module: nn.Module, batch: Inputs) -> tuple[int, int]:
    """Operations of a forward pass of a batch, and the bytes that autograd keeps of it besides the weights."""
    own = {each.untyped_storage().data_ptr() for each in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with seeded(0), operations.counted() as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = ask(module, batch)
    del outputs  # only now, since its graph holds what was kept
    return counter.get_total_flops(), sum(kept.values())
