"""A network under autocast whose last product is computed in float32, so that its logits are not rounded to bfloat16.

bfloat16 has 8 significant bits: logits rounded to it tie for the first place in 1.6 to 6% of rows. Rounding in earlier
layers is harmless, since products average it out; the last product determines the digits of the logits.

One forward pass counts the products and finds the last one, whether it is a linear layer, a convolution or a product
with the embedding's weights. The class of its module is replaced by a subclass that leaves autocast for that product
only. A network whose products are invisible (a scripted one) stays unchanged, and the caller computes it entirely in
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workers.data.collate import Inputs
from workers.models.ask import ask

PRODUCTS = {
    *("linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "inner", "chain_matmul"),
    *("addmm", "addmv", "addbmm", "baddbmm", "einsum", "tensordot", "convolution"),
    *(f"conv{transposed}{dimensions}d" for transposed in ("", "_transpose") for dimensions in (1, 2, 3)),
}
"""Names of the torch functions that autocast computes in bfloat16."""
ROUNDED = 0.5
"""Share of logits that are exact in bfloat16, above which all count as rounded."""


class _Counting(TorchFunctionMode):
    """Calls `seen` before each product."""

    def __init__(self, seen: Callable[[], None]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in PRODUCTS:
            self.seen()
        return function(*args, **(kwargs or {}))


class _OneInFloat32(TorchFunctionMode):
    """Computes one product in float32: that with this number, counted from 1."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in PRODUCTS:
            self.left -= 1
            if self.left == 0:
                device = next((t.device.type for t in args if isinstance(t, Tensor)), "cpu")
                with torch.autocast(device, enabled=False):
                    return function(*_widened(args), **_widened(kwargs or {}))
        return function(*args, **(kwargs or {}))


class _LastProduct:
    """Mixed into the class of the module that computes the last product; `last_product` is its number there."""

    last_product: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _OneInFloat32(self.last_product):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


@cache
def _with_last_product(kind: Any) -> Any:
    """One subclass per module class, since only members of equal classes can be stacked."""
    return type(kind.__name__, (_LastProduct, kind), {})


@torch.no_grad()
def in_float32(module: nn.Module, x: Inputs) -> bool:
    """Make the module compute its last product in float32; returns whether its logits keep their digits.

    Call it inside the module's autocast. x: a few examples [B, ...].
    """
    try:
        holder, number = _last_product(module, x)
        if not isinstance(holder, _LastProduct):
            kind: Any = type(holder)
            holder.__class__ = _with_last_product(kind)
            holder.last_product = number  # type: ignore[assignment]
        return not is_rounded(ask(module, x))
    except Exception:  # networks that hide their products may raise anything
        return False


def is_rounded(logits: Tensor) -> bool:
    """Whether logits have no more digits than bfloat16."""
    values = logits.float()
    exact = values.to(torch.bfloat16).float() == values
    return bool(exact.float().mean() > ROUNDED)


def _last_product(module: nn.Module, x: Inputs) -> tuple[nn.Module, int]:
    """The innermost module in whose forward pass the last product is computed, and its number there.

    Raises: ValueError where the pass contains no visible product.
    """
    inside: list[list[Any]] = []
    last: list[Any] = []

    def enter(entered: nn.Module, _: Any) -> None:
        inside.append([entered, 0])

    def leave(*_: Any) -> None:
        inside.pop()

    def seen() -> None:
        for each in inside:
            each[1] += 1
        last[:] = inside[-1]

    hooks = [hook for m in module.modules() for hook in _hooked(m, enter, leave)]
    try:
        with _Counting(seen):
            ask(module, x)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise ValueError("no product was seen")
    return last[0], last[1]


def _hooked(module: nn.Module, enter: Any, leave: Any) -> Sequence[Any]:
    return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)


def _widened(value: Any) -> Any:
    """The same arguments, with tensors of lower precision in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.element_size() < 4 else value
    if isinstance(value, Mapping):
        return {name: _widened(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_widened(each) for each in value)
    return value
