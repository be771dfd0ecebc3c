"""The mean of the members' predictions, exact to the last bit.

Floating-point sums depend on their order. So the soft targets would depend on which teacher answers first, on the
number of actors and on the grouping of partial sums. Integer sums do not. So each member's weighted contribution is
rounded once to fixed point, contributions are added as integers, and the total is converted back to probabilities:
`mean(contribution(p_1, w_1) + contribution(p_2, w_2) + ...)`. Contributions have 32 bits, in steps of 10^-9. With 4,096
or more stored classes they have 64, since each probability is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COMBINES = ("arithmetic", "geometric")
FIXED_POINT = {32: torch.int32, 64: torch.int64}

# Number of bits after the binary point. A weighted probability is at most 1. A log-probability is at least
# LOG_FLOOR, and a sum of them must not overflow.
_FRACTION_BITS = {
    torch.int32: {"arithmetic": 30, "geometric": 24},
    torch.int64: {"arithmetic": 52, "geometric": 44},
}
_COMPUTED_IN = {torch.int32: torch.float32, torch.int64: torch.float64}
SUM_TOLERANCE = 1e-4
"""Tolerance for the sum of a teacher's probabilities, because of rounding."""
LOG_FLOOR = -104.0
"""Smallest log-probability: that of the smallest positive float32."""


def normalised(weights: Sequence[float]) -> list[float]:
    """Member weights scaled to sum to 1.

    Raises: ValueError where a weight is negative or not finite, or all are 0.
    """
    total = math.fsum(weights)  # exact, so independent of the order of the members
    if not all(0 <= w < float("inf") for w in weights) or not 0 < total < float("inf"):
        raise ValueError(f"member weights are {list(weights)}; expected finite numbers >= 0, not all 0")
    return [w / total for w in weights]


def contribution(
    probabilities: Tensor, weight: float | Tensor, combine: str, dtype: torch.dtype = torch.int64
) -> Tensor:
    """One member's part of the mean, in fixed point.

    probabilities: [N, K] float, softened. weight: a number, or [N] for a weight of each example; the weights of all
    members sum to 1. Returns [N, K] of `dtype`, int32 or int64, to add to the other members' contributions.
    """
    values = probabilities.to(_COMPUTED_IN[dtype])
    if combine == "geometric":
        values = values.log().clamp_min(LOG_FLOOR)
    elif combine != "arithmetic":
        raise ValueError(f"combine is '{combine}'; expected {' or '.join(COMBINES)}")
    if isinstance(weight, Tensor):
        weight = weight.to(values.dtype).unsqueeze(-1)
    return (values * (weight * 2.0 ** _FRACTION_BITS[dtype][combine])).round_().to(dtype)


def mean(total: Tensor, combine: str) -> Tensor:
    """Probabilities [N, K] float64 from the sum of all members' contributions, [N, K] int32 or int64."""
    values = total.to(torch.float64) * 2.0 ** -_FRACTION_BITS[total.dtype][combine]
    return torch.softmax(values, dim=-1) if combine == "geometric" else values


def mean32(total: Tensor, combine: str) -> Tensor:
    """`mean` in float32 [N, K]. For int32 the direct conversion gives the same bits in a quarter of the time."""
    if total.dtype == torch.int32 and combine == "arithmetic":
        return total.to(torch.float32) * 2.0 ** -_FRACTION_BITS[total.dtype][combine]
    return mean(total, combine).to(torch.float32)


def off_by(total: NDArray[Any], share: float) -> float:
    """Largest deviation of a row sum of some members' arithmetic contributions [N, K], int32 or int64, from `share`."""
    one = 2.0 ** _FRACTION_BITS[FIXED_POINT[8 * total.dtype.itemsize]]["arithmetic"]
    sums = total.sum(axis=1, dtype=np.int64) / one
    return float(np.abs(sums - share).max(initial=0.0))


def average(
    probabilities: Tensor | Sequence[Tensor],
    weights: Sequence[float] | Tensor | None = None,
    combine: str = "arithmetic",
) -> Tensor:
    """The ensemble's prediction: sum of w_k p_k, or the renormalised exp of the sum of w_k log p_k.

    probabilities: [M, N, K] or M tensors [N, K], each row summing to 1. weights: None (uniform), [M], or [M, N] for
    weights of each example; scaled to sum to 1 over the members. Returns [N, K] in the dtype of `probabilities`; its
    bits do not depend on the order of the members.

    Raises: ValueError for an empty ensemble, invalid weights, or an unknown `combine`.
    """
    members = list(probabilities)
    if not members:
        raise ValueError("no member to average; expected at least one")
    if weights is None:
        weights = [1.0] * len(members)
    if len(weights) != len(members):
        raise ValueError(f"{len(weights)} weights for {len(members)} members; expected one each")
    each: Sequence[float | Tensor]
    if isinstance(weights, Tensor) and weights.ndim == 2:
        share = weights.to(torch.float64)
        each = list(share / share.sort(dim=0).values.sum(dim=0))
    else:
        each = normalised([float(w) for w in weights])
    total = sum(
        (contribution(p, w, combine) for p, w in zip(members, each, strict=True)),
        start=torch.zeros(members[0].shape, dtype=torch.int64, device=members[0].device),
    )
    return mean(total, combine).to(members[0].dtype)


def by_pattern(flags: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Examples by which members have a flag: the numbers of these members, and the rows that have the same ones.

    flags: [M, N] bool. Returns index tensors [m] and [n] int64, for each set of members that occurs.
    """
    patterns, which = torch.unique(flags, dim=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        yield patterns[:, number].nonzero().squeeze(1), (which == number).nonzero().squeeze(1)
