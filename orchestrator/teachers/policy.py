"""What to do when a component is lost: pure functions of the policy and of what happened.

A component is a teacher, the training of a member, the workers of a student, or a measurement. An exception is answered
like a death: the process ends and a fresh one tries the same work again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_ATTEMPTS = 3
"""How often in a row a component is started again, without reaching anything new, before it is given up."""


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


def may_restart(attempts: int, repeated: bool) -> bool:
    """Whether a component is started again after so many restarts in a row.

    repeated: whether a fresh process failed at the same work, as it would another time.
    """
    return attempts < MAX_ATTEMPTS and not repeated


def often(attempts: int, repeated: bool) -> str:
    """How often a component was tried that is given up, to be put behind the verb; empty where only once."""
    if repeated:
        return " again in a fresh process"
    return f" after {attempts} restarts in a row" if attempts else ""


def decide(on_member_loss: str, loss: Loss) -> Action:
    """`wait` and `reweight` start it again, as `may_restart` allows; then `wait` gives up, and `reweight` only where it
    was the last; `fail` ends the run."""
    again = may_restart(loss.attempts, loss.repeated)
    if on_member_loss == "reweight":
        if again and not (loss.apart and loss.others):
            return Action.REWEIGHT
        return Action.DROP if loss.others else Action.FAIL
    return Action.RESTART if on_member_loss == "wait" and again else Action.FAIL


@dataclass
class Failures:
    """The failures of one training or measurement in a row, with nothing new reached between them."""

    attempts: int = 0
    repeated: bool = False
    """Whether the last two were exceptions at the same place."""
    at: int | None = None
    reached: object = None

    def may_restart(self, at: int | None, reached: object = None) -> bool:
        """Note a failure; returns whether the component is started again.

        at: where an exception was raised (an epoch); None for a death, which may have any cause. reached: what was
        complete by then (a checkpoint's name), in any terms that change with progress.
        """
        self.repeated = at is not None and at == self.at
        if reached != self.reached or (at is not None and self.at is not None and at > self.at):
            self.attempts = 0
        again = may_restart(self.attempts, self.repeated)
        self.attempts += again
        self.at, self.reached = (self.at if at is None else at), reached
        return again
