"""Small convolutional networks of images that return their feature maps, too."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Three blocks of convolution, normalisation over all channels (GroupNorm), ReLU and pooling, then a linear layer.

    x: [B, H, W] or [B, channels, H, W] float32. Returns logits [B, classes], and as hidden states the maps of the
    blocks, [B, width, H / 2, W / 2], [B, 2 width, H / 4, W / 4] and [B, 4 width, H / 8, W / 8], rounded down.
    """

    def __init__(self, width: int, dropout: float, channels: int, classes: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(1, after), nn.ReLU(), nn.MaxPool2d(2))
            for before, after in pairwise(widths)
        )
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """See the class."""
        maps, h = [], x.unsqueeze(1) if x.dim() == 3 else x
        for block in self.blocks:
            h = block(h)
            maps.append(h)
        return {"logits": self.classes(self.dropout(h.mean((2, 3)))), "hidden_states": tuple(maps)}


def net(width: int, dropout: float = 0.0, *, channels: int = 1, classes: int = 10) -> nn.Module:
    """A network whose blocks have `width`, 2 `width` and 4 `width` channels. channels: of the images."""
    module = Net(width, dropout, channels, classes)
    # Convolutions are faster in this format, which torch's annotations lack.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module
