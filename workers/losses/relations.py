"""The term on relations of a self-attention: which elements attend to which. MiniLMv2, Wang et al. 2021.

Queries, keys and values are cut into a common number of relation heads, whatever number of attention heads each network
has. So student and teacher may have different widths and heads, and nothing is projected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from workers.losses.layers import Pairs, example_means, pairs
from workers.losses.term import Batch, Outputs, Sum, Term, unfit
from workers.signals import Signal

PARTS = {"query": "queries", "key": "keys", "value": "values"}
MOST_HEADS = 16
"""Of `heads: auto`, which takes the largest common divisor of both widths up to this number."""


class Relations(Term):
    """KL(teacher, student) of softmax(A B^T / sqrt(d)) for each relation A-B, summed over the relations.

    d is the width of a relation head. A mean over the elements of each example, its heads and the pairs of layers.
    """

    name: ClassVar[str] = "relations"
    """In the configuration."""
    needs = frozenset({Signal.ATTENTION_INPUTS})

    def __init__(
        self,
        of: Sequence[str] = ("query-key", "value-value"),
        heads: int | Literal["auto"] = "auto",
        layers: Pairs = "last",
    ) -> None:
        """of: relations of queries, keys and values, such as `key-key`. heads: number of relation heads."""
        known = [f"{a}-{b}" for a in PARTS for b in PARTS]
        unknown = [each for each in ([of] if isinstance(of, str) else of) if each not in known]
        if isinstance(of, str) or not of or unknown:
            raise unfit(self.name, f"has `of: {of}`. Expected a list of some of {', '.join(known)}.")
        if heads != "auto" and (type(heads) is not int or heads < 1):
            raise unfit(self.name, f"has `heads: {heads}`. Expected a number >= 1, or `auto`.")
        self.of = [(PARTS[a], PARTS[b]) for a, b in (each.split("-") for each in of)]
        self.heads, self.layers = heads, layers
        self.found: list[tuple[int, int]] = []
        self.count = 1

    def prepare(self, student: Outputs, teacher: Outputs) -> None:
        self.found = pairs(self.layers, len(student.queries), len(teacher.queries), self.name)
        self.wanted = {part: {other for _, other in self.found} for relation in self.of for part in relation}
        widths = {
            f"{part} of the {of}": outputs[0].shape[-1]
            for part in sorted({part for relation in self.of for part in relation})
            for of, outputs in (("student", getattr(student, part)), ("teacher", getattr(teacher, part)))
        }
        self._check_pairs(widths)
        common = math.gcd(*widths.values())
        if self.heads == "auto":
            self.count = max(count for count in range(1, MOST_HEADS + 1) if common % count == 0)
            return
        wrong = [f"{what}, {width}" for what, width in widths.items() if width % self.heads]
        if wrong:
            fits = [count for count in range(1, 4 * MOST_HEADS + 1) if common % count == 0]
            raise unfit(
                self.name,
                f"has {self.heads} heads, which do not divide the width of the {wrong[0]}. Expected a common divisor "
                f"of all widths: {', '.join(map(str, fits))}.",
            )
        self.count = self.heads

    def _check_pairs(self, widths: Mapping[str, int]) -> None:
        for a, b in self.of:
            for of in ("student", "teacher"):
                one, other = widths[f"{a} of the {of}"], widths[f"{b} of the {of}"]
                if one != other:
                    raise unfit(
                        self.name,
                        f"relates {a} of width {one} to {b} of width {other} of the {of}, as with grouped-query "
                        "attention. Expected relations of parts of one width, such as the term `relations` with `of: "
                        "[query-query, key-key, value-value]`.",
                    )

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        total = outputs.logits.new_zeros(())
        for own, other in self.found:
            for a, b in self.of:
                with torch.no_grad():
                    wanted = _log_relation(getattr(batch.teacher, a)[other], getattr(batch.teacher, b)[other],
                                           self.count, outputs.mask)  # fmt: skip
                found = _log_relation(getattr(outputs, a)[own], getattr(outputs, b)[own], self.count, outputs.mask)
                total = total + _divergence(wanted, found, outputs.mask).sum()
        return total / max(len(self.found), 1), batch.examples


def _log_relation(a: Tensor, b: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """log softmax(A B^T / sqrt(d)) over the elements that are no padding: [B, heads, L, L] of a, b [B, L, D]."""
    a, b = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (a, b))
    scores = a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return scores.log_softmax(-1)


def _divergence(teacher: Tensor, student: Tensor, mask: Tensor | None) -> Tensor:
    """KL of relations [B, heads, L, L], the mean over heads and real elements: [B]."""
    return example_means((teacher.exp() * (teacher - student)).sum(-1).mean(1), mask)
