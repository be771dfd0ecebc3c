"""What to do when a teacher is lost: a pure function of `on_member_loss` and of what happened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.cluster.failures import may_restart


class Kind(Enum):
    """How a teacher was lost."""

    DIED = "died"
    HUNG = "hung"
    WRONG = "wrong"
    """It answered, and the answer cannot be a probability's."""
    FAILED = "failed"
    """It raised an exception, as it started or for a part."""


class Action(Enum):
    """The answers to a lost teacher."""

    RESTART = "restart"
    """Start it again, and wait for it."""
    REWEIGHT = "reweight"
    """Start it again; go on with the others meanwhile, or where none is left wait for the first that is up."""
    DROP = "drop"
    """Go on with the others for good."""
    FAIL = "fail"


@dataclass(frozen=True)
class Loss:
    """One lost teacher: how often in a row it had been started again.

    others: members that are there or on their way and whose answers count. apart: whether some of them share its
    process and can go on there without it. repeated: whether a fresh process failed at the same part.
    """

    attempts: int
    others: int
    apart: bool = False
    repeated: bool = False


def decide(on_member_loss: str, loss: Loss) -> Action:
    """`wait` and `reweight` start it again, as `may_restart` allows; then `wait` gives up, and `reweight` only where it
    was the last; `fail` ends the run."""
    again = may_restart(loss.attempts, loss.repeated)
    if on_member_loss == "reweight":
        if again and not (loss.apart and loss.others):
            return Action.REWEIGHT
        return Action.DROP if loss.others else Action.FAIL
    return Action.RESTART if on_member_loss == "wait" and again else Action.FAIL
