"""Which device a process computes on."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """CUDA where torch sees it, never because a scheduler declared a GPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
