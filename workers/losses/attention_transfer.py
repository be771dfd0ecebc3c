"""The term on where a network is active: attention transfer, Zagoruyko and Komodakis 2017."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from workers.losses.hidden_states import Elements
from workers.losses.layers import filled


class AttentionTransfer(Elements):
    """|a - b|^2 of the attention maps a and b of student and teacher, from 0 to 2.

    The map of a state is the mean square of its channels at each place or element, of unit length over these (equation
    2 of the paper, with p = 2 and the distance squared). So widths may differ, and nothing is projected.
    """

    name = "attention_transfer"
    least_elements = 2

    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        one, other = (
            functional.normalize(filled(each.square().mean(-1), mask, 0.0), dim=1) for each in (student, teacher)
        )
        return (one - other).square().sum(1)
