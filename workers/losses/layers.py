"""Pairs of layers that a term compares, their states element by element, and means over what is no padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional

from workers.errors import RequestError
from workers.losses.term import unfit

Pairs = Literal["last", "uniform"] | Sequence[Sequence[int]]
"""Which layers of student and teacher are compared: the last ones; each of the student's with one of the teacher's, at
even distances; or pairs [student, teacher], counted from 0, or from the end by negative numbers."""

POOLS: Mapping[int, Callable[..., Tensor]] = {4: functional.adaptive_avg_pool2d, 5: functional.adaptive_avg_pool3d}
"""How states are averaged to a smaller size, by their dimensions: those of maps, and of volumes."""


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
                raise unfit(
                    term,
                    f"names layer {layer} of the {of}, which has {layers}. Expected a number from {-layers} to "
                    f"{layers - 1}.",
                )
        found.append((pair[0] % student, pair[1] % teacher))
    if not found:
        raise _wrong(wanted, term)
    return found


def _wrong(wanted: object, term: str) -> RequestError:
    expected = "Expected `last`, `uniform`, or pairs [[student's layer, teacher's layer], ...]."
    return unfit(term, f"has `layers: {wanted}`. {expected}")


def aligned(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two states as [B, L, D] each: of a sequence [B, L, D] its elements, of a map [B, C, H, W] or a volume
    [B, C, D, H, W] its places, of a vector [B, D] one. Maps of different sizes are averaged to the smaller one, and so
    are volumes (adaptive average pooling)."""
    pool = POOLS.get(student.ndim)
    if pool is not None and student.ndim == teacher.ndim and student.shape[2:] != teacher.shape[2:]:
        size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        student, teacher = (pool(each, size) for each in (student, teacher))
    return elements(student), elements(teacher)


def elements(state: Tensor) -> Tensor:
    """[B, L, D]: the elements of a sequence, the places of a map or a volume, or a vector as one element."""
    if state.ndim in POOLS:
        return state.flatten(2).transpose(1, 2)
    return state.unsqueeze(1) if state.ndim == 2 else state


def example_means(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each example [B] over its elements. values: [B, ...]; mask: [B, L], or None."""
    if mask is None or values.shape != mask.shape:
        return values.flatten(1).mean(1)  # a worker's share of a batch may be empty, which `reshape` refuses
    kept = mask.to(values.dtype)
    return (values * kept).sum(1) / kept.sum(1).clamp_min(1.0)


def filled(values: Tensor, mask: Tensor | None, value: float) -> Tensor:
    """The values [B, L] or [B, L, D] with `value` for padding. mask: [B, L], or None."""
    if mask is None or values.shape[:2] != mask.shape:
        return values
    return values.masked_fill(~(mask if values.ndim == 2 else mask.unsqueeze(-1)), value)
