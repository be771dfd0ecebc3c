"""Members of one architecture computed as one: their weights stacked, one forward pass for all (torch.func, vmap).

Small members leave a GPU idle between kernels, and stacked ones less; large ones fill it alone and gain nothing. So
both ways are timed there on real examples, in the precision of the pass, and the faster is taken. Other kernels may
differ by rounding; which way was taken is on record with every part. On a CPU members are never stacked: kernels there
depend on the number of rows and members, a last micro-batch has fewer rows, and no bit may follow from which members
share an actor.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]
"""A batch [B, ...] to the logits of M members [M, B, K]."""

REPEATS = 5
WORTH = 1.1
"""How many times as fast stacking must be."""
AGREEMENT = 1e-6
"""How far probabilities may be apart in float32."""
ROUNDING = 2.0
"""In bfloat16: how many times as far from the answers in float32 as those of single members."""


def one_by_one(modules: Sequence[nn.Module]) -> Forward:
    """Each member's own forward pass."""
    first, *others = modules
    return lambda x: torch.stack([first(x), *(module(x) for module in others)]) if others else first(x).unsqueeze(0)


def stacked(modules: Sequence[nn.Module]) -> Forward:
    """One forward pass for all; the modules must be of one architecture, in evaluation mode.

    Raises: RuntimeError or ValueError where torch cannot stack them.
    """
    parameters, buffers = torch.func.stack_module_state(list(modules))
    parameters = {name: value.detach() for name, value in parameters.items()}
    skeleton = copy.deepcopy(modules[0]).to("meta")

    def one(own: dict[str, Tensor], state: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(skeleton, (own, state), (x,))
        return logits

    return lambda x: torch.vmap(one, in_dims=(0, 0, None))(parameters, buffers, x)


@torch.no_grad()
def worth_stacking(modules: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether stacking is possible, right and faster on `x`, a batch of the size that teachers compute.

    To be called inside the autocast that they compute under.
    """
    if len(modules) < 2:
        return False
    single = one_by_one(modules)
    try:
        together = stacked(modules)
        right = all(_is_right(single, together, rows) for rows in (x, x[:1]))  # a part may end in a single row
    except Exception:  # whatever a network does that vmap does not
        return False
    return right and _seconds(single, x) >= WORTH * _seconds(together, x)


def _is_right(single: Forward, together: Forward, x: Tensor) -> bool:
    """Whether stacked members answer `x` as single ones, but for rounding in the precision of the pass."""
    one, other = single(x), together(x)
    if not torch.is_autocast_enabled(x.device.type):
        return _apart(one, other) <= AGREEMENT
    with torch.autocast(x.device.type, enabled=False):
        exact = single(x)
    return _apart(other, exact) <= ROUNDING * _apart(one, exact) + AGREEMENT


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two answers' probabilities."""
    return float((torch.softmax(one.float(), dim=-1) - torch.softmax(other.float(), dim=-1)).abs().max())


def _seconds(forward: Forward, x: Tensor) -> float:
    """The quickest of a few tries: what else the machine does only ever adds."""
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        forward(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)
