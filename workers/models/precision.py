"""In which precision a network computes: float32, or bfloat16 where the device has it.

Weights, losses and soft targets stay float32; bfloat16 is for matrix products (torch's autocast).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from workers.specs import Precision


def computed_in(device: torch.device, precision: Precision) -> Precision:
    """What `auto` means on a device: bfloat16 on a GPU that has it in hardware, float32 elsewhere."""
    if precision != "auto":
        return precision
    return (
        "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    )


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The block in which a network's forward pass runs."""
    if computed_in(device, precision) == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
