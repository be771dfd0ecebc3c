"""Operations of a forward pass, in torch's own counter and for what that leaves out.

A multiply-add is two operations. The counter adds up products by the kernels that compute them, so it misses layers
that a kernel of their own computes on a CPU. Sums, activations, norms and look-ups of embeddings count as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]


def _with_vector(matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Products with keys and with values, of every query head; several of these may share a head of keys."""
    *heads, queries, width = query
    return 2 * math.prod(heads) * queries * key[-2] * (width + value[-1])


def _recurrent(x: Shape, of_inputs: Shape, of_states: Shape, *_: Any, **__: Any) -> int:
    """One direction of one layer: all gates, at every step."""
    return 2 * math.prod(x[:-1]) * (math.prod(of_inputs) + math.prod(of_states))


def _bilinear(_: Shape, weight: Shape, *__: Any, out_shape: Shape, **___: Any) -> int:
    return 2 * math.prod(out_shape[:-1]) * math.prod(weight)


def _distances(one: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * math.prod(out_shape) * one[-1]


def _summed(_: Shape, one: Shape, other: Shape, *__: Any, **___: Any) -> int:
    return 2 * math.prod(one) * other[-1]


def _sparse(_: Tensor, matrix: Tensor, dense: Tensor, *__: Any, **___: Any) -> int:
    return 2 * matrix._nnz() * dense.shape[-1]


_sparse._get_raw = True  # type: ignore[attr-defined]  # by it the counter passes tensors instead of shapes

aten = torch.ops.aten
UNSEEN: dict[Any, Callable[..., int]] = {
    aten.mkldnn_rnn_layer: _recurrent,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._trilinear: _bilinear,
    aten._cdist_forward: _distances,
    aten._euclidean_dist: _distances,
    aten.mv: _with_vector,
    aten.dot: _with_vector,
    aten.addmv: lambda _, *product, **__: _with_vector(*product),
    aten.addbmm: _summed,
    aten._sparse_addmm: _sparse,
}
"""Operations of kernels that torch's counter does not know, by the shapes of their arguments."""


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count the operations of forward passes in this block; `get_total_flops()` of the counter tells their number."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel for a whole frozen layer, which cannot be counted
    try:
        with FlopCounterMode(display=False, custom_mapping=UNSEEN) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
