"""The nets of Hinton, Vinyals and Dean 2015, section 3: two hidden layers of rectified linear units.

What regularises the large net (shifted inputs, dropout, a bound on each unit's incoming weights) lives in its layers
and is there in training alone, so members may know what the student never sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDE = 28


class Jitter(nn.Module):
    """Shift each image by up to `pixels` in both directions while training. x: [B, 784]."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.pixels == 0:
            return x
        padded = nn.functional.pad(x.view(-1, SIDE, SIDE), (self.pixels,) * 4)
        shifts = torch.randint(0, 2 * self.pixels + 1, (2, len(x), 1), device=x.device)
        rows, columns = shifts + torch.arange(SIDE, device=x.device)  # each [B, 28]
        example = torch.arange(len(x), device=x.device)[:, None, None]
        return padded[example, rows[:, :, None], columns[:, None, :]].reshape(len(x), -1)


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
    hidden: int = 800, dropout: float = 0.0, input_dropout: float = 0.0, jitter: int = 0, max_norm: float = 0.0
) -> nn.Module:
    """784 -> hidden -> hidden -> 10 logits, for x [B, 784] float32 in [0, 1]."""
    return nn.Sequential(
        Jitter(jitter),
        nn.Dropout(input_dropout),
        MaxNormLinear(SIDE * SIDE, hidden, max_norm),
        nn.ReLU(),
        nn.Dropout(dropout),
        MaxNormLinear(hidden, hidden, max_norm),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, 10),
    )
