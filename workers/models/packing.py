"""Linear layers on a CPU whose weights are packed once into oneDNN's format, instead of for every product.

In float32, torch's `nn.Linear` calls MKL, which leaves half of an AMD EPYC's AVX-512 unused: packed layers take half
the time there (840 x 512, 512 rows: 2.25 ms instead of 4.71, one thread). The choice of layers depends only on their
sizes and never on a measurement. It affects the last bits, and the store must be reproducible.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from workers.data.collate import Inputs
from workers.models.ask import ask

SMALLEST = 2**14
"""Fewest weights of a layer to pack; for smaller layers, the call overhead of oneDNN exceeds the gain."""
AGREEMENT = 1e-5
"""Largest difference of probabilities after packing: it allows a few roundings, but no wrong layer."""


class PackedLinear(nn.Module):
    """`nn.Linear` for inference, with the operators that torch's compiler uses for frozen weights."""

    def __init__(self, layer: nn.Linear, rows: int) -> None:
        """rows: batch size to optimise for."""
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


@torch.no_grad()
def packed(module: nn.Module, x: Inputs) -> nn.Module:
    """A copy of the module with its larger linear layers packed, for inference on a CPU.

    It returns the module itself where packing fails or changes the output on `x`, a batch [B, ...]. A network may use
    a layer in ways that a packed one does not support, and other versions of torch may lack the operators.
    """
    if not any(_worth_packing(layer) for layer in module.modules()):
        return module
    try:
        other = _with_packed_layers(copy.deepcopy(module), len(x))
        one, two = (torch.softmax(ask(each, x).float(), dim=-1) for each in (other, module))
        apart = (one - two).abs().max()
    except Exception:
        return module
    return other if float(apart) <= AGREEMENT else module


def _worth_packing(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.numel() >= SMALLEST


def _with_packed_layers(module: nn.Module, rows: int) -> nn.Module:
    if _worth_packing(module):
        assert isinstance(module, nn.Linear)
        return PackedLinear(module, rows)
    for name, child in module.named_children():
        setattr(module, name, _with_packed_layers(child, rows))
    return module
