"""The retry limit for failed work: a component is given up after `MAX_ATTEMPTS` restarts without progress.

A component is a teacher, the training of a member, the workers of a student, or a measurement. An exception is handled
like the death of the process: a fresh process retries the same work. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_ATTEMPTS = 3
"""Consecutive restarts of a component without progress before it is given up."""


def may_restart(attempts: int, repeated: bool) -> bool:
    """Whether a component is restarted after `attempts` consecutive restarts.

    repeated: whether a fresh process failed at the same work, so that another retry would fail too.
    """
    return attempts < MAX_ATTEMPTS and not repeated


def often(attempts: int, repeated: bool) -> str:
    """Text on the attempts of a component that is given up, to follow a verb; empty after a single attempt."""
    if repeated:
        return " again in a fresh process"
    return f" after {attempts} restarts in a row" if attempts else ""


@dataclass
class Failures:
    """Consecutive failures of one training or measurement without progress between them."""

    attempts: int = 0
    repeated: bool = False
    """Whether the last two failures were exceptions at the same place."""
    at: int | None = None
    reached: object = None

    def may_restart(self, at: int | None, reached: object = None) -> bool:
        """Record a failure; returns whether to restart the component.

        at: the place of an exception (an epoch); None for a death, which may have any cause. reached: any value that
        changes with progress, such as the name of the last checkpoint.
        """
        self.repeated = at is not None and at == self.at
        if reached != self.reached or (at is not None and self.at is not None and at > self.at):
            self.attempts = 0
        again = may_restart(self.attempts, self.repeated)
        self.attempts += again
        self.at, self.reached = (self.at if at is None else at), reached
        return again
