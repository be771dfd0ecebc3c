"""How often work that failed is tried again: after `MAX_ATTEMPTS` restarts that reach nothing new it is given up.

A component is a teacher, the training of a member, the workers of a student, or a measurement. An exception is answered
like a death: the process ends and a fresh one tries the same work again. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_ATTEMPTS = 3
"""How often in a row a component is started again, without reaching anything new, before it is given up."""


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
