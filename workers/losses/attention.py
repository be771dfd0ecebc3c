"""The term on self-attention itself: the relation of queries to keys alone. MiniLM, Wang et al. 2020."""

from __future__ import annotations

from typing import Literal

from workers.losses.layers import Pairs
from workers.losses.relations import Relations


class Attention(Relations):
    """KL(teacher, student) of the distributions of self-attention, softmax(Q K^T / sqrt(d)).

    With `heads` as in both networks these are the distributions that they compute, if both are bidirectional with
    absolute positions. Causal masks, rotary positions and relative biases act behind Q and K, and are left out.
    """

    name = "attention"

    def __init__(self, heads: int | Literal["auto"] = "auto", layers: Pairs = "last") -> None:
        """heads: number of relation heads. Raises: `RequestError` for another number."""
        super().__init__(("query-key",), heads, layers)
