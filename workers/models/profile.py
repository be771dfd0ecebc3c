"""The cost of a network by its shapes: parameters, operations of a forward pass, bytes kept for the backward pass.

One forward pass of a few examples counts them; none of the figures depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from workers.data.arrays import spread
from workers.data.examples import Examples
from workers.models import predictor
from workers.models.ask import ask
from workers.seeds import seeded
from workers.specs.models import AnyModel

EXAMPLES = 4
"""Examples of the counted pass; a few, since texts differ in length."""


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
    if model.learner != "network":
        return None
    with seeded(0):
        module = predictor.kind_of(model).made(model).train()
        batch = predictor.collator(model)(x, spread(len(x), EXAMPLES))
        own = {each.untyped_storage().data_ptr() for each in [*module.parameters(), *module.buffers()]}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = ask(module, batch)
        del outputs  # only now, since its graph holds what was kept
    parameters = list(module.parameters())
    examples = len(batch)
    counted = counter.get_total_flops() / examples
    count = sum(each.numel() for each in parameters)
    return Profile(
        parameters=count,
        weight_bytes=sum(each.nbytes for each in parameters),
        forward_flops=counted or 2.0 * count,  # of layers that torch does not count: each weight is used once
        activation_bytes=sum(kept.values()) / examples,
    )
