"""The optimizer of a training: which parameters share a learning rate and a weight decay, and the rate of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from workers.errors import RequestError
from workers.models.ask import unwrapped
from workers.models.hidden import is_of_transformers
from workers.specs.training import TrainingSpec
from workers.training import schedules
from workers.training.schedules import Schedule, Value

MOMENTS = 100
"""How many parts of a training a schedule is evaluated at before it."""
Groups = list[dict[str, Any]]
"""Parameter groups, as torch's optimizers take them."""


def build(model: nn.Module, spec: TrainingSpec, more: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """The optimizer of a network's trainable parameters. more: further parameters, such as an objective's own."""
    return OPTIMIZERS[spec.optimizer]([*groups(model, spec), *_further(more, spec)], spec)


def schedule(optimizer: torch.optim.Optimizer, spec: TrainingSpec, steps: int) -> LambdaLR:
    """The schedule of the learning rate. steps: of the whole training. Raises: as `check_schedule`."""
    factor = _factor("training.schedule", spec)
    return LambdaLR(optimizer, lambda step: _rate(step, steps, spec, factor))


def check_schedule(key: str, spec: TrainingSpec) -> None:
    """Make the schedule of the learning rate, and evaluate it over a whole training. key: of it in the configuration.

    Raises: `RequestError` where a schedule of the user's own cannot be made, raises, or returns anything but a finite
    number of at least 0.
    """
    factor = _factor(key, spec)
    for moment in range(MOMENTS + 1):
        factor.when(moment / MOMENTS)


def _factor(key: str, spec: TrainingSpec) -> Value:
    """The factor of the learning rate by the share of the steps after the warm-up that is done."""
    return Value(key, 0.0, 1.0, schedules.make(key, spec, SCHEDULES, "a factor of `learning_rate`"))


def groups(model: nn.Module, spec: TrainingSpec) -> Groups:
    """Parameter groups: one for each pair of learning rate and weight decay, in the order of their first parameters.

    spec: of `TrainingSpec.for_model`, which decides `decays: auto`; else that is `all`.
    """
    rates = rates_by_layer(model, spec.layer_decay) if spec.layer_decay is not None else {}
    matrices = spec.decays == "matrices"
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 or not matrices
            key = spec.learning_rate * rates.get(name, 1.0), spec.weight_decay if decays else 0.0
            found.setdefault(key, []).append(parameter)
    return [{"params": several, "lr": rate, "weight_decay": decay} for (rate, decay), several in found.items()]


def rates_by_layer(model: nn.Module, decay: float) -> Mapping[str, float]:
    """The factor of the learning rate for each parameter's name: decay^d at d layers below the output.

    The layers are the entries of the longest `ModuleList` whose entries are alike; in a network of transformers without
    one, of the longest whose entries are of one class. What precedes it, such as embeddings, is below its first layer;
    what follows it has the full rate, and so has the head of a network of transformers, wherever it stands. Howard and
    Ruder 2018, "discriminative fine-tuning".

    Raises: `RequestError` for a network without such a list.
    """
    every = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList)]
    lists = [found for found in every if _alike(found[1])]
    if not lists and is_of_transformers(model):  # as of ModernBERT, whose first layer has no norm
        lists = [found for found in every if _of_one_class(found[1])]
    if not lists:
        raise RequestError(
            "`layer_decay` is set, and the network has no `ModuleList` of layers that are alike. Leave it out, or keep "
            "the layers in such a list."
        )
    stack, layers = max(lists, key=lambda found: len(found[1]))
    top, depth, found = len(layers) + 1, 0, {}
    encoder = f"{getattr(unwrapped(model), 'base_model_prefix', '')}."
    for name, _ in model.named_parameters():
        if name.startswith(f"{stack}."):
            depth = int(name[len(stack) + 1 :].split(".")[0]) + 1
        elif depth:
            depth = top
        is_head = encoder != "." and not name.removeprefix("module.").startswith(encoder)
        found[name] = decay ** (top - (top if is_head else depth))
    return found


def _alike(layers: nn.ModuleList) -> bool:
    """Whether all layers have parameters of the same names and shapes, as those of a stack."""
    shapes = [{name: parameter.shape for name, parameter in layer.named_parameters()} for layer in layers]
    return bool(shapes) and bool(shapes[0]) and all(each == shapes[0] for each in shapes)


def _of_one_class(layers: nn.ModuleList) -> bool:
    return len({type(layer) for layer in layers}) == 1 and any(True for _ in layers.parameters())


def _further(parameters: Iterable[nn.Parameter], spec: TrainingSpec) -> Groups:
    several = list(parameters)
    return [{"params": several, "lr": spec.learning_rate, "weight_decay": spec.weight_decay}] if several else []


def _rate(step: int, steps: int, spec: TrainingSpec, factor: Value) -> float:
    warmup = round(spec.warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return factor.when(min(done, 1.0))


def _may_be_fused(several: Groups) -> bool:
    """Whether torch has a fused step, one pass over all numbers: complex ones have none."""
    return all(p.is_floating_point() for each in several for p in each["params"])


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": lambda: lambda done: 1.0,
    "cosine": lambda: lambda done: 0.5 * (1.0 + float(np.cos(np.pi * done))),
    "linear": lambda: lambda done: 1.0 - done,
}
"""Schedules of the learning rate by their names: what makes each, without arguments."""

OPTIMIZERS: dict[str, Callable[[Groups, TrainingSpec], torch.optim.Optimizer]] = {
    "adam": lambda of, spec: torch.optim.AdamW(of, fused=_may_be_fused(of)),
    "sgd": lambda of, spec: torch.optim.SGD(of, momentum=spec.momentum, fused=_may_be_fused(of)),
}
