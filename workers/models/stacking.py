"""Members of one architecture in one forward pass, with stacked weights (torch.func, vmap).

Small members leave a GPU idle between kernels, and stacking reduces that. Large members fill a GPU alone and gain
nothing. So a teacher times both ways on real examples, in the precision of the pass, and takes the faster. Their
kernels may round differently, so every part records the choice. On a CPU, members are never stacked: kernels there
depend on the number of rows and members, and no bit may depend on which members share an actor.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from workers.models.ask import ask, logits_in

Forward = Callable[[Tensor], Tensor]
"""Maps a batch [B, ...] to the logits of M members [M, B, K]."""

REPEATS = 5
WORTH = 1.1
"""Speed-up from which stacking is used."""
AGREEMENT = 1e-6
"""Largest difference of probabilities in float32."""
ROUNDING = 2.0
"""In bfloat16, largest error against float32, as a multiple of the error of single members."""


def one_by_one(modules: Sequence[nn.Module]) -> Forward:
    """Each member's own forward pass."""
    return lambda x: torch.stack([ask(each, x) for each in modules])


def stacked(modules: Sequence[nn.Module]) -> Forward:
    """One forward pass for all; the modules must be of one architecture, in evaluation mode.

    Raises: RuntimeError or ValueError where torch cannot stack them.
    """
    if len({tuple(name for name, _ in module.named_buffers()) for module in modules}) > 1:  # which torch would drop
        raise ValueError("their buffers have other names, as of a specialist beside its generalist")
    parameters, buffers = torch.func.stack_module_state(list(modules))
    parameters = {name: value.detach() for name, value in parameters.items()}
    skeleton = copy.deepcopy(modules[0]).to("meta")

    def one(own: dict[str, Tensor], state: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = logits_in(torch.func.functional_call(skeleton, (own, state), (x,)), x, skeleton)
        return logits

    return lambda x: torch.vmap(one, in_dims=(0, 0, None))(parameters, buffers, x)


@torch.no_grad()
def worth_stacking(modules: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether stacking is possible, correct and faster on `x`, a batch of the teachers' size.

    Call it inside the teachers' autocast.
    """
    if len(modules) < 2:
        return False
    single = one_by_one(modules)
    try:
        together = stacked(modules)
        right = all(_is_right(single, together, rows) for rows in (x, x[:1]))  # the last batch may be one row
    except Exception:  # unsupported operations raise various types
        return False
    return right and _seconds(single, x) >= WORTH * _seconds(together, x)


def _is_right(single: Forward, together: Forward, x: Tensor) -> bool:
    """Whether stacked members agree with single ones on `x`, up to rounding in the precision of the pass."""
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
    """The minimum of a few measurements, since other load on the machine can only add time."""
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        forward(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)
