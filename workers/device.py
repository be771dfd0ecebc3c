"""The device of a process."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """CUDA where torch finds it, regardless of the GPUs that a scheduler has declared."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
