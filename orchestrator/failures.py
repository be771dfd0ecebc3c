"""What to do when a teacher is lost: a pure function of the policy and of what happened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_ATTEMPTS = 3
"""How often in a row one teacher is started again, without an answer to anything new, before it is given up."""


class Kind(Enum):
    """How a teacher was lost."""

    DIED = "died"
    HUNG = "hung"
    WRONG = "wrong"
    """It answered, and the answer cannot be a probability's."""


class Action(Enum):
    """The answers to a lost teacher."""

    RESTART = "restart"
    """Start it again, and wait for it."""
    REWEIGHT = "reweight"
    """Go on with the others, start it again meanwhile, and take it back when it is up."""
    DROP = "drop"
    """Go on with the others for good."""
    FAIL = "fail"


@dataclass(frozen=True)
class Loss:
    """One lost teacher: how, how often in a row it had been started again, and how many members others still host.

    apart: whether it hosts members besides those that were lost, which can go on without them.
    """

    kind: Kind
    attempts: int
    survivors: int
    apart: bool = False


def decide(on_member_loss: str, loss: Loss) -> Action:
    """`wait` starts it again, up to `MAX_ATTEMPTS` times; `reweight` goes on with the others, and waits only where
    nobody is left; `fail` ends the run."""
    again = loss.attempts < MAX_ATTEMPTS
    if on_member_loss == "reweight" and loss.survivors > 0:
        return Action.REWEIGHT if again and not loss.apart else Action.DROP
    if on_member_loss in ("wait", "reweight") and again:
        return Action.RESTART
    return Action.FAIL
