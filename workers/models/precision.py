"""The precision of a network: float32, or bfloat16 where the hardware supports it.

Weights, losses and soft targets stay float32; only matrix products use bfloat16 (torch's autocast).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from workers.specs.base import Precision


def has_bfloat16() -> bool:
    """Whether the GPU of this process computes in bfloat16 by hardware, not by emulation."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def computed_in(device: torch.device, precision: Precision) -> Precision:
    """The precision on a device; `auto` is bfloat16 on a GPU with hardware support, float32 elsewhere."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" and has_bfloat16() else "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The autocast context for a network's forward pass."""
    if computed_in(device, precision) == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
