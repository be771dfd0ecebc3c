"""Soft targets of a large vocabulary: the k largest probabilities of a row, and the rest's mass as one bucket.

A softmax over 50,000 or 150,000 classes takes 100 to 300 KB per token in half precision; its sixteen largest entries
take a hundred bytes. The remaining classes become one more event, "none of these", with the teacher's mass on them.
Rescaling the k entries to sum to 1 instead would change the teacher: it would be more confident in every row. At
k = 1 it would give its first class probability 1, whatever its own was.

For an ensemble, the mean is computed first, over all classes (`workers.ensemble`, exact in any order), then compressed
once. The mean of the members' own top k would differ. It would lose the mass of classes below a member's k-th place,
so it would lose mass exactly where the members disagree.

Not supported: sampled targets (Anshumann et al. 2025, arXiv 2503.16870), unbiased over the tail as well but noisy.
`workers.targets.top_k_columns` has the file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from workers.signals import Signal
from workers.targets.base import Targets

PROBABILITY_DTYPES = (torch.float16, torch.float32)

# The loss converts this many logits to float32 at a time (64 MiB). So beside its gradient, the loss of 4,096 tokens
# over 150,000 classes needs no second tensor of 2.4 GB.
_CHUNK = 2**24


@dataclass(frozen=True)
class TopK(Targets):
    """Rows of soft targets over k + 1 events: the k likeliest classes, and all others together.

    ids: [N, k] int32, class ids by falling probability, so that the first column is the argmax. Sorted by id, they
    would compress only a fortieth better (1.4 bytes of 56 at k = 16).
    probabilities: [N, k] float16 or float32, softened at `temperature`.
    tail: [N] float32, 1 - the sum of the stored `probabilities`, at least 0. Multiples of 2^-24 up to 1 are exact in
    float32, and so is the tail of float16 probabilities.
    Raises: ValueError where the shapes do not match.
    """

    ids: Tensor
    probabilities: Tensor
    tail: Tensor
    temperature: float = 1.0

    kind: ClassVar[str] = "top_k"
    offers: ClassVar[frozenset[Signal]] = frozenset({Signal.PROBABILITIES})

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.probabilities.shape != self.ids.shape or self.tail.shape != self.ids.shape[:1]:
            shapes = [list(t.shape) for t in (self.ids, self.probabilities, self.tail)]
            raise ValueError(f"ids, probabilities and tail of shapes {shapes}; expected [N, k], [N, k] and [N]")

    @property
    def columns(self) -> tuple[Tensor, ...]:
        return (self.ids, self.probabilities, self.tail)

    def like(self, columns: Sequence[Tensor]) -> TopK:
        return TopK(columns[0], columns[1], columns[2], self.temperature)

    def events(self, dtype: torch.dtype) -> Tensor:
        return torch.cat([self.probabilities.to(dtype), self.tail.to(dtype).unsqueeze(-1)], dim=-1)

    def log_events(self, logits: Tensor) -> Tensor:
        """[N, k + 1]. With k = K the tail has no class; its log-probability is `NOTHING`, to stay finite."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        z, ids = logits.to(dtype) / self.temperature, self.ids.to(torch.int64)
        of_top = functional.log_softmax(z, dim=-1).gather(1, ids)
        if ids.shape[1] == z.shape[1]:
            tail = torch.full_like(of_top[:, :1], NOTHING)
        else:
            rest = z.scatter(1, ids, -torch.inf)
            tail = (rest.logsumexp(dim=-1) - z.logsumexp(dim=-1)).unsqueeze(-1)
        return torch.cat([of_top, tail], dim=-1)

    def cross_entropy_sum(self, logits: Tensor) -> Tensor:
        return top_k_cross_entropy_sum(logits, self, temperature=self.temperature)

    def entropy(self) -> Tensor:
        return entropy(self)


NOTHING = -1.0e4
"""Finite log-probability whose exp is 0 in every dtype."""


def compress(probabilities: Tensor, k: int, dtype: torch.dtype = torch.float16, temperature: float = 1.0) -> TopK:
    """The k largest probabilities of each row, rounded to `dtype`, and the mass of the rest.

    probabilities: [N, K] float32 or float64, softened at T, each row summing to 1. The same input gives the same bits
    on any device: among equal probabilities the lower class id takes precedence.

    Rounding moves at most 2^-12 of mass into or out of the tail (on a language model's output 3 * 10^-6 nats per
    token). With k = K the tail is 0.
    Raises: ValueError for a k outside 1..K, another dtype, or probabilities that are not finite.
    """
    if probabilities.ndim != 2 or not 1 <= k <= probabilities.shape[1]:
        raise ValueError(f"k is {k} for probabilities of shape {list(probabilities.shape)}; expected [N, K], k in 1..K")
    if dtype not in PROBABILITY_DTYPES:
        raise ValueError(f"dtype is {dtype}; expected one of {list(PROBABILITY_DTYPES)}")
    values, ids = _largest(probabilities, k)
    if not bool(values.isfinite().all()):  # topk sorts NaN first
        raise ValueError("probabilities hold NaN or infinity; expected rows that sum to 1")
    stored = values.to(dtype)
    if k == probabilities.shape[1]:
        tail = torch.zeros(len(stored), dtype=torch.float32, device=stored.device)
    else:
        tail = (1.0 - stored.to(torch.float64).sum(dim=-1)).clamp_min(0.0).to(torch.float32)
    return TopK(ids.to(torch.int32), stored, tail, temperature)


def _largest(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and ids [N, k] int64 of the k largest, by falling value, then by rising id.

    `torch.topk` does not define which of several equal entries it takes, nor their order.
    """
    values, ids = probabilities.topk(min(k + 1, probabilities.shape[1]), dim=-1)
    cut = (values[:, k - 1] == values[:, -1]).nonzero().squeeze(-1) if values.shape[1] > k else None
    values, ids = values[:, :k], ids[:, :k]
    if cut is not None and len(cut):  # equal entries on both sides of the cut
        equal = probabilities[cut] == values[cut, -1:]
        falling = torch.arange(probabilities.shape[1], 0, -1, dtype=torch.int32, device=equal.device)
        lowest = (equal * falling).topk(k, dim=-1).indices
        above = (values[cut] > values[cut, -1:]).sum(dim=-1, keepdim=True)
        place = torch.arange(k, device=equal.device) - above
        ids = ids.clone()
        ids[cut] = torch.where(place < 0, ids[cut], lowest.gather(1, place.clamp_min(0)))
    ids = ids.sort(dim=-1).values
    by_value = probabilities.gather(1, ids).sort(dim=-1, descending=True, stable=True)
    return by_value.values, ids.gather(1, by_value.indices)


def top_k_cross_entropy_sum(logits: Tensor, targets: TopK, *, temperature: float) -> Tensor:
    """T^2 * CE over the k + 1 events of `targets`, summed over the rows.

    With q = softmax(logits / T): -(sum over the top of p_i log q_i) - tail * log(1 - sum over the top of q_i).

    logits: [B, K] float; half precision is converted to float32. targets: B rows softened at the same T, k <= K.
    Returns a scalar in float32 (float64 for float64 logits).

    This is the exact cross entropy of the two distributions after both are coarsened to the same k + 1 events. Minus
    `entropy(targets)` it is their KL divergence, which by the data-processing inequality is never above that of the
    full distributions; the difference is tail * KL(teacher || student, both within the tail). The minimum is where the
    student gives the teacher's mass to each top class and to the tail as a whole, whatever its distribution within
    the tail. With k = K it is `Dense.cross_entropy_sum`.

    The mass outside the top is computed from the logits there (log-sum-exp), not as 1 - sum, which would round to 0.
    For the gradient, the function saves its inputs and two numbers per row.
    Raises: ValueError for a temperature not above 0, another number of rows than the logits, or more classes.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number above 0")
    if logits.ndim != 2 or len(targets) != len(logits) or targets.ids.shape[1] > logits.shape[1]:
        raise ValueError(
            f"targets [N, k] = {list(targets.ids.shape)} for logits of shape {list(logits.shape)}; "
            "expected as many rows, and at most as many classes"
        )
    apply: Callable[..., Tensor] = _TopKCrossEntropy.apply
    return apply(logits, targets.ids, targets.probabilities, targets.tail, temperature)


def entropy(targets: TopK) -> Tensor:
    """Entropy of the k + 1 events in nats, the lower bound of the cross entropy. Returns [N] float32."""
    events = torch.cat([targets.probabilities.to(torch.float32), targets.tail.unsqueeze(-1)], dim=-1)
    return -torch.xlogy(events, events).sum(dim=-1)


def bytes_per_row(k: int, dtype: torch.dtype = torch.float16) -> int:
    """Bytes of a row in memory, its example id (8) included: 108 at k = 16 in float16.

    In a file, incompressible rows take a few more bits for the list structure. On a language model's output a row took
    55 bytes at k = 16 (`benchmarks/top_k.py`).
    """
    return k * (4 + dtype.itemsize) + 4 + 8


def _row_chunks(logits: Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))


class _TopKCrossEntropy(torch.autograd.Function):
    """The loss with an explicit gradient, since autograd would save several float32 copies of the logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, ids: Tensor, probabilities: Tensor, tail: Tensor, temperature: float
    ) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        ids = ids.to(torch.int64)
        probabilities, tail = probabilities.to(dtype), tail.to(dtype)
        if ids.shape[1] == logits.shape[1]:
            tail = torch.zeros_like(tail)  # the tail has no classes
        loss = torch.empty(len(logits), dtype=dtype, device=logits.device)
        log_all = torch.empty_like(loss)
        log_tail = torch.empty_like(loss)
        for rows in _row_chunks(logits):
            z = logits[rows].to(dtype, copy=True).div_(temperature)
            top = z.gather(1, ids[rows])
            log_tail[rows] = z.scatter_(1, ids[rows], -torch.inf).logsumexp(dim=-1)
            log_all[rows] = torch.logaddexp(top.logsumexp(dim=-1), log_tail[rows])
            p, t, total = probabilities[rows], tail[rows], log_all[rows]
            # An event without mass contributes 0, even where the student gives it none and 0 * inf would be NaN.
            of_top = torch.where(p > 0, p * (total.unsqueeze(-1) - top), 0.0).sum(dim=-1)
            loss[rows] = of_top + torch.where(t > 0, t * (total - log_tail[rows]), 0.0)
        ctx.save_for_backward(logits, ids, probabilities, tail, log_all, log_tail)
        ctx.temperature = temperature
        return loss.sum() * temperature**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """T * (q - target); within the tail, the target is the tail's mass in the student's proportions."""
        logits, ids, probabilities, tail, log_all, log_tail = ctx.saved_tensors
        mass = probabilities.sum(dim=-1) + tail  # 1 up to rounding
        log_tail = torch.where(log_tail.isinf(), 0.0, log_tail)  # the tail has no class, or only some of probability 0
        result = torch.empty_like(logits)
        for rows in _row_chunks(logits):
            total, outside = log_all[rows], log_tail[rows]
            z = logits[rows].to(log_all.dtype, copy=True).div_(ctx.temperature)
            of_top = mass[rows, None] * (z.gather(1, ids[rows]) - total.unsqueeze(-1)).exp() - probabilities[rows]
            # q_j = exp(z_j - log_tail) * exp(log_tail - log_all): neither factor can overflow outside the top.
            surplus = mass[rows] * (outside - total).exp() - tail[rows]
            z.sub_(outside.unsqueeze(-1)).exp_().mul_(surplus.unsqueeze(-1)).scatter_(1, ids[rows], of_top)
            result[rows] = z.mul_(gradient * ctx.temperature)
        return result, None, None, None, None
