"""The kind `python`: builds a torch module from a spec and a seed, and wraps it as a predictor."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from workers.data.collate import Inputs, widened
from workers.errors import RequestError
from workers.models import checkpoints, predictor
from workers.models.ask import ask
from workers.models.last_product import in_float32
from workers.models.packing import packed
from workers.models.precision import autocast, computed_in
from workers.models.predictor import Outputs, Predictor
from workers.models.special import specialised
from workers.seeds import seeded
from workers.specs.base import Precision
from workers.specs.models import AnyNetwork
from workers.user_code import factories

FEW = 16
"""Examples on which a network is prepared."""


class TorchPredictor(Predictor):
    """A torch module that maps a batch to logits under torch's autocast."""

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.whole = False
        """Whether it always computes in float32, since bfloat16 would round its logits."""

    @classmethod
    def load(cls, model: Any, weights: str) -> Self:
        module = build(model)
        checkpoints.load(module, weights)
        return cls(module.eval())

    @classmethod
    def made(cls, model: Any) -> nn.Module:
        module = factories.call(model.factory, model.kwargs, model.folder)
        if not isinstance(module, nn.Module):
            raise RequestError(
                f"factory '{model.factory}' returned {type(module).__name__}; expected a torch.nn.Module "
                "from a batch to logits."
            )
        return module

    def __call__(self, x: Inputs, precision: Precision = "float32") -> Outputs:
        if self.whole or computed_in(x.device, precision) == "float32":
            return Outputs(ask(self.module, x).float())  # no context manager, whose overhead slows small networks
        with autocast(x.device, precision):
            return Outputs(ask(self.module, x).float())

    @property
    def parameters(self) -> int:
        return parameters(self.module)

    def to(self, device: torch.device) -> Self:
        self.module.to(device)
        return self

    def prepare(self, x: Inputs, device: torch.device, precision: Precision) -> bool:
        """On a CPU, pack its layers (`packing`); in bfloat16, keep the precision of its logits (`last_product`)."""
        if computed_in(device, precision) == "bfloat16":
            with autocast(device, precision):
                few = widened(x[:FEW].to(device))
                self.whole = not in_float32(self.module, few)
        elif device.type == "cpu":
            self.module = packed(self.module, x)
        return not self.whole


def predictor_of(answers: Predictor | nn.Module) -> Predictor:
    """The predictor itself, or a predictor for a plain module."""
    return TorchPredictor(answers) if isinstance(answers, nn.Module) else answers


def build(spec: AnyNetwork, seed: int = 0, initial: str | None = None) -> nn.Module:
    """Build the module that `spec` describes. Its random weights depend only on `seed`.

    It seeds torch, numpy and `random`. initial: URI of initial weights to load instead.

    Raises: `RequestError` where the factory is missing, raises, or returns anything but a module, or where `initial`
    does not hold its weights, or has the classes in another order.
    """
    with seeded(seed):
        module: nn.Module = specialised(predictor.kind_of(spec).made(spec), spec.special)
    if initial is not None:
        predictor.kind_of(spec).begin(spec, module, initial)
    return module


def check_trainable(module: nn.Module, spec: AnyNetwork, role: str) -> None:
    """Raise `RequestError` where `module` has no trainable parameter, or has lazy parameters."""
    lazy = [name for name, each in (*module.named_parameters(), *module.named_buffers()) if nn.parameter.is_lazy(each)]
    if lazy:
        raise RequestError(
            f"{role} model {spec.label} has lazy layers: '{lazy[0]}' has no shape before the first batch. Give "
            "the layer its size, or let the factory call the model once on a batch of zeros before it returns it."
        )
    if not any(p.requires_grad for p in module.parameters()):
        raise RequestError(
            f"{role} model {spec.label} has no parameters to train. Expected some with requires_grad; a member "
            "that is complete as it is belongs in `ensemble.checkpoints`."
        )


def parameters(module: nn.Module) -> int:
    """Number of learned parameters; shared ones count once."""
    return sum(p.numel() for p in module.parameters())
