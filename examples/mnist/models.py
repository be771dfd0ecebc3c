"""The nets of Hinton, Vinyals and Dean 2015, section 3: two hidden layers of rectified linear units.

What regularises the large net (shifted inputs, dropout, a bound on each unit's incoming weights) lives in its layers
and is there in training alone, so members may know what the student never sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHAPE = (1, 28, 28)
"""Of an image: channels, height, width."""


class Jitter(nn.Module):
    """Shift each image by up to `pixels` in both directions while training. x: [B, channels * height * width]."""

    def __init__(self, pixels: int, shape: Sequence[int] = SHAPE) -> None:
        super().__init__()
        self.pixels, self.shape = pixels, tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.pixels == 0:
            return x
        channels, height, width = self.shape
        padded = nn.functional.pad(x.view(-1, channels, height, width), (self.pixels,) * 4)
        down, right = torch.randint(0, 2 * self.pixels + 1, (2, len(x), 1), device=x.device)
        rows = down + torch.arange(height, device=x.device)  # [B, height]
        columns = right + torch.arange(width, device=x.device)  # [B, width]
        example = torch.arange(len(x), device=x.device)[:, None, None, None]
        channel = torch.arange(channels, device=x.device)[:, None, None]
        return padded[example, channel, rows[:, None, :, None], columns[:, None, None, :]].reshape(x.shape)


class MaxNormLinear(nn.Linear):
    """A linear layer whose units' incoming weights are scaled back to a norm of `max_norm` in training.

    Srivastava et al. 2014, section 5.1. 0: no bound.
    """

    def __init__(self, inputs: int, outputs: int, max_norm: float) -> None:
        super().__init__(inputs, outputs)
        self.max_norm = max_norm

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.max_norm:
            with torch.no_grad():
                norms = self.weight.norm(dim=1, keepdim=True)
                if norms.max() > self.max_norm:
                    self.weight.mul_((self.max_norm / norms).clamp_max(1.0))
        return super().forward(x)


def net(
    hidden: int = 800,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    jitter: int = 0,
    max_norm: float = 0.0,
    *,
    shape: Sequence[int] = SHAPE,
    classes: int = 10,
) -> nn.Module:
    """Pixels -> hidden -> hidden -> logits [B, classes], for x [B, channels * height * width] float32 in [0, 1].

    shape: of an image: channels, height, width.
    """
    return nn.Sequential(
        Jitter(jitter, shape),
        nn.Dropout(input_dropout),
        MaxNormLinear(math.prod(shape), hidden, max_norm),
        nn.ReLU(),
        nn.Dropout(dropout),
        MaxNormLinear(hidden, hidden, max_norm),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )
