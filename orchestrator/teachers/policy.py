"""The policy for lost teachers: a pure function of `on_member_loss` and of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.cluster.failures import may_restart


class Kind(Enum):
    """How a teacher was lost."""

    DIED = "died"
    HUNG = "hung"
    WRONG = "wrong"
    """Its answer is not a valid sum of probabilities."""
    FAILED = "failed"
    """It raised an exception, at its start or for a part."""


class Action(Enum):
    """The pool's reactions to a lost teacher."""

    RESTART = "restart"
    """Restart it, and wait for it."""
    REWEIGHT = "reweight"
    """Restart it, and continue with the others meanwhile; if none is left, wait for the first that is up."""
    DROP = "drop"
    """Continue permanently with the others."""
    FAIL = "fail"


@dataclass(frozen=True)
class Loss:
    """One lost teacher, with the number of its consecutive restarts.

    others: present or starting members with a weight. apart: whether some of them share its process and can continue
    without it. repeated: whether a fresh process failed at the same part.
    """

    attempts: int
    others: int
    apart: bool = False
    repeated: bool = False


def decide(on_member_loss: str, loss: Loss) -> Action:
    """Choose the reaction to a loss.

    `wait` and `reweight` restart the teacher as long as `may_restart` allows. Afterwards `wait` gives up; `reweight`
    gives up only if no other member is left. `fail` ends the run.
    """
    again = may_restart(loss.attempts, loss.repeated)
    if on_member_loss == "reweight":
        if again and not (loss.apart and loss.others):
            return Action.REWEIGHT
        return Action.DROP if loss.others else Action.FAIL
    return Action.RESTART if on_member_loss == "wait" and again else Action.FAIL
