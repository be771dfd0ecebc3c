"""What to do when a teacher is lost: a pure function of the policy and of what happened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_RESTARTS = 3
"""How often one actor is started again under `wait` before the run gives up."""


class Action(Enum):
    """The three answers to a lost teacher."""

    RESTART = "restart"
    REWEIGHT = "reweight"
    FAIL = "fail"


@dataclass(frozen=True)
class Loss:
    """One lost actor: how often it had been restarted, and how many members others still host."""

    restarts: int
    survivors: int


def decide(on_member_loss: str, loss: Loss) -> Action:
    """`wait` restarts up to `MAX_RESTARTS` times; `reweight` goes on while anybody is left; `fail` ends."""
    if on_member_loss == "wait" and loss.restarts < MAX_RESTARTS:
        return Action.RESTART
    if on_member_loss == "reweight" and loss.survivors > 0:
        return Action.REWEIGHT
    return Action.FAIL
