"""Pairs of layers that a term compares, and means over the elements that are no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from workers.errors import RequestError

Pairs = Literal["last", "uniform"] | Sequence[Sequence[int]]
"""Which layers of student and teacher are compared: the last ones; each of the student's with one of the teacher's, at
even distances; or pairs [student, teacher], counted from 0, or from the end by negative numbers."""


def pairs(wanted: Pairs, student: int, teacher: int, term: str) -> list[tuple[int, int]]:
    """The pairs of layers. student, teacher: how many each has.

    Raises: `RequestError` for layers that do not exist.
    """
    if not isinstance(wanted, (str, list, tuple)):
        raise _wrong(wanted, term)
    if wanted == "last":
        return [(student - 1, teacher - 1)]
    if wanted == "uniform":
        return [(k, round(k * (teacher - 1) / max(student - 1, 1))) for k in range(student)]
    found = []
    for pair in wanted:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(type(layer) is int for layer in pair):
            raise _wrong(wanted, term)
        for layer, layers, of in ((pair[0], student, "student"), (pair[1], teacher, "teacher")):
            if not -layers <= layer < layers:
                raise RequestError(
                    f"distillation.objective: the term '{term}' names layer {layer} of the {of}, which has {layers}. "
                    f"Expected a number from {-layers} to {layers - 1}."
                )
        found.append((pair[0] % student, pair[1] % teacher))
    if not found:
        raise _wrong(wanted, term)
    return found


def _wrong(wanted: object, term: str) -> RequestError:
    return RequestError(
        f"distillation.objective: the term '{term}' has `layers: {wanted}`. Expected `last`, `uniform`, or pairs "
        "[[student's layer, teacher's layer], ...]."
    )


def example_means(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each example [B] over its elements. values: [B, ...]; mask: [B, L], or None."""
    if mask is None or values.shape != mask.shape:
        return values.reshape(len(values), -1).mean(1)
    kept = mask.to(values.dtype)
    return (values * kept).sum(1) / kept.sum(1).clamp_min(1.0)
