"""The networks of the benchmarks. Each configuration for Stillhouse gets a copy of this file beside it."""

from torch import nn


def mlp(hidden: int, layers: int, inputs: int = 840, classes: int = 117) -> nn.Module:
    """[B, inputs] -> logits [B, classes], through `layers` ReLU layers of `hidden` units."""
    stack: list[nn.Module] = []
    width = inputs
    for _ in range(layers):
        stack += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*stack, nn.Linear(width, classes))
