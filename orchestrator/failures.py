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
    """Start it again; go on with the others meanwhile, or where nobody is left wait for whoever is up first."""
    DROP = "drop"
    """Go on with the others for good."""
    FAIL = "fail"


@dataclass(frozen=True)
class Loss:
    """One lost teacher: how often in a row it had been started again.

    others: members that are there or on their way and whose answers count. apart: whether some of them share its
    process and can go on there without it.
    """

    attempts: int
    others: int
    apart: bool = False


def decide(on_member_loss: str, loss: Loss) -> Action:
    """`wait` and `reweight` start it again, up to `MAX_ATTEMPTS` times; then `wait` gives up, and `reweight` only where
    it was the last; `fail` ends the run."""
    again = loss.attempts < MAX_ATTEMPTS
    if on_member_loss == "reweight":
        if again and not (loss.apart and loss.others):
            return Action.REWEIGHT
        return Action.DROP if loss.others else Action.FAIL
    return Action.RESTART if on_member_loss == "wait" and again else Action.FAIL
