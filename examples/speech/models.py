"""The acoustic model: a stack of ReLU layers over a window of frames, and what keeps it from over-fitting.

The perturbations and dropout are layers that act in `train()` alone. A member may use all of them; its
prediction, and so its soft targets, are of clean inputs.
"""

import torch
from torch import Tensor, nn


class Perturb(nn.Module):
    """While training: each window as said faster or slower, by a smaller or taller speaker, with noise.

    Time is stretched about the frame in the middle, so that the label still holds.
    """

    def __init__(self, frames: int, channels: int, speed: float, warp: float, gain: float, noise: float) -> None:
        super().__init__()
        self.frames, self.channels = frames, channels
        self.speed, self.warp, self.gain, self.noise = speed, warp, gain, noise

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        windows = x.view(-1, self.frames, self.channels)
        if self.speed:
            windows = stretch(self.frames, self.frames // 2, self.speed, x) @ windows
        if self.warp:
            windows = windows @ stretch(self.channels, 0, self.warp, x).transpose(1, 2)
        if self.gain:
            windows = windows + self.gain * torch.randn(len(x), 1, 1, device=x.device)
        if self.noise:
            windows = windows + self.noise * torch.randn_like(windows)
        return windows.reshape(x.shape)


def stretch(size: int, centre: int, most: float, like: Tensor) -> Tensor:
    """[B, size, size]: matrices that interpolate an axis stretched about `centre` by up to `most`."""
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    factor = 1 + most * (2 * torch.rand(len(like), 1, device=like.device) - 1)
    source = (centre + (place - centre) * factor).clamp(0, size - 1)
    return (1 - (source[:, :, None] - place).abs()).clamp(min=0)


def acoustic(
    hidden: int = 512,
    layers: int = 4,
    dropout: float = 0.0,
    speed: float = 0.0,
    warp: float = 0.0,
    gain: float = 0.0,
    noise: float = 0.0,
    frames: int = 21,
    channels: int = 40,
    classes: int = 117,
) -> nn.Module:
    """[B, frames * channels] -> logits [B, classes], through `layers` ReLU layers of `hidden` units.

    While training: dropout of hidden units; speed, warp: the most by which time and the mel axis are
    stretched, as shares; gain, noise: standard deviations, of a window's loudness and of each input, in
    those of the features.
    """
    stack: list[nn.Module] = [Perturb(frames, channels, speed, warp, gain, noise)]
    width = frames * channels
    for _ in range(layers):
        stack += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
        width = hidden
    return nn.Sequential(*stack, nn.Linear(width, classes))
