"""Small convolutional networks of images that return their feature maps, too."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Three blocks of convolution, normalisation over all channels (GroupNorm), ReLU and pooling, then a linear layer.

    x: [B, 28, 28] float32. Returns logits [B, 10], and as hidden states the maps of the blocks, [B, width, 14, 14],
    [B, 2 width, 7, 7] and [B, 4 width, 3, 3].
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        channels = [1, width, 2 * width, 4 * width]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(1, after), nn.ReLU(), nn.MaxPool2d(2))
            for before, after in pairwise(channels)
        )
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """See the class."""
        maps, h = [], x.unsqueeze(1)
        for block in self.blocks:
            h = block(h)
            maps.append(h)
        return {"logits": self.classes(self.dropout(h.mean((2, 3)))), "hidden_states": tuple(maps)}


def net(width: int, dropout: float = 0.0) -> nn.Module:
    """A network whose blocks have `width`, 2 `width` and 4 `width` channels."""
    return Net(width, dropout).to(memory_format=torch.channels_last)  # in which convolutions are faster
