"""The term on where each channel is active: channel-wise distillation, Shu et al. 2021."""

from __future__ import annotations

from torch import Tensor, finfo

from workers.losses.hidden_states import Projected
from workers.losses.layers import Pairs, filled
from workers.losses.term import unfit


class ChannelKL(Projected):
    """T^2 KL(p, q) of each channel's softmax over places at T, of teacher p and student q; a mean over channels.

    Where the numbers of channels differ, a learned projection takes the student's to the teacher's: a convolution of
    width 1, as in the paper.
    """

    name = "channel_kl"
    least_elements = 2

    def __init__(self, layers: Pairs = "last", project: bool = False, temperature: float = 4.0) -> None:
        """temperature: T, above 0; the paper's default is 4."""
        super().__init__(layers, project)
        if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not temperature > 0:
            raise unfit(self.name, f"has `temperature: {temperature}`. Expected a number above 0.")
        self.temperature = float(temperature)

    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        q, p = (
            filled(each / self.temperature, mask, finfo(each.dtype).min / 2).log_softmax(1)
            for each in (student, teacher)
        )
        divergence = (p.exp() * (p - q)).sum(1)
        return self.temperature**2 * divergence.mean(-1)
