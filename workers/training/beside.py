"""A member beside the student: it computes the signals of each batch that are too large for a store.

It never learns: no gradient is kept, data-parallel training does not wrap it, and no checkpoint has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workers.data.arrays import Index
from workers.data.collate import Inputs
from workers.errors import RequestError, RunError
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models.hidden import observe
from workers.models.outputs import Outputs
from workers.models.precision import autocast
from workers.signals import Signal
from workers.specs.base import Precision

if TYPE_CHECKING:
    from workers.training.objective import Objective

Answer = Callable[[], Outputs]
Beside = Callable[[Inputs, Index], Answer]
"""Begins to compute the outputs of a member for a batch of the student, with the ids [b] of its examples in the split;
the answer is on the batch's device, in float32."""
Wanted = Mapping[str, Collection[int]]
"""Layers that are compared, by field of `Outputs`."""


@dataclass(frozen=True)
class MemberBeside:
    """Which member is beside the student, and how it computes."""

    member: Member
    precision: Precision = "auto"
    actor: Any = None
    """The actor that computes; None: each worker does."""
    timeout_s: float | None = None
    """How long a worker waits for an answer of the actor; None: without limit."""


def of_objective(asked: MemberBeside, device: torch.device, goal: Objective) -> Beside:
    """The member with the signals that the terms of an objective need: in its actor, or in this process on `device`."""
    if asked.actor is not None:
        return from_actor(asked.actor, lambda: goal.wanted, asked.timeout_s)
    return of_module(module_of(asked.member).to(device), goal.beside, asked.precision, lambda: goal.wanted)


def module_of(member: Member) -> nn.Module:
    """The torch module of a trained member. Raises: `RequestError` for a member of another kind."""
    module = teacher.load(member).module
    if module is None:
        raise RequestError(
            f"{member.name} of kind '{member.model.kind}' has no layers to look into. Expected a member of kind python "
            "or transformers in `distillation.hidden.member`."
        )
    return module


def of_module(
    module: nn.Module,
    needs: Collection[Signal],
    precision: Precision,
    wanted: Callable[[], Wanted | None] = lambda: None,
) -> Beside:
    """A module as it is, in evaluation mode."""
    module.eval()

    @torch.no_grad()
    def outputs(x: Inputs) -> Outputs:
        with autocast(x.device, precision):
            found, layers = observe(module, x, needs), wanted()
        return (found if layers is None else found.only(layers)).float()

    return lambda x, ids: lambda: outputs(x)


def from_actor(actor: Any, wanted: Callable[[], Wanted | None], timeout_s: float | None = None) -> Beside:
    """The member in an actor, which gets ids alone and computes while the student does. wanted: the layers to send.

    Raises: `RunError` where an answer takes longer than `timeout_s`. Ray sends a request again once it has restarted a
    lost actor, and waits without a limit where the cluster lacks resources for it.
    """

    def begin(x: Inputs, ids: Index) -> Answer:
        import ray

        asked, device = actor.outputs.remote(ids, wanted()), x.device

        def answer() -> Outputs:
            try:
                found: Outputs = ray.get(asked, timeout=timeout_s)
            except ray.exceptions.GetTimeoutError:
                raise RunError(
                    f"the member that computes hidden states has not answered for {timeout_s:g} s: its process hangs, "
                    "or its node is lost and the cluster has no room for it elsewhere. Add nodes, or set "
                    "`distillation.hidden.where: worker`. What was complete is kept; the same command resumes."
                ) from None
            except ray.exceptions.RayTaskError as error:  # the member's own, and no death of a process
                raise error.cause from None
            return found.to(device)

        return answer

    return begin
