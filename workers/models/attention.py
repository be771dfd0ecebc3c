"""Attention of short sequences while a network trains in bfloat16 on a CPU: computed by its separate matrix products.

There torch's fused attention is slow backwards. A step of a BERT of width 128 takes 0.59 of its time with separate
products for texts of 64 tokens, 0.90 for 256, and 1.8 times as long for 512 (torch 2.13, two cores of a Xeon with AMX,
2026-11-30). Both give the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from workers.models.precision import computed_in
from workers.specs.base import Precision

SHORT = 256
"""The longest sequence of keys whose attention is faster by separate products."""


class _Separate(TorchFunctionMode):
    """Chooses for each call of `scaled_dot_product_attention` that will have a backward pass."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if function is scaled_dot_product_attention and torch.is_grad_enabled():
            key = given["key"] if "key" in given else args[1]
            if key.shape[-2] <= SHORT:
                with sdpa_kernel(SDPBackend.MATH):
                    return function(*args, **given)
        return function(*args, **given)


def for_training(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context of a step of the training, forward and backward: checkpointed layers are computed again in it."""
    return _Separate() if device.type == "cpu" and computed_in(device, precision) == "bfloat16" else nullcontext()
