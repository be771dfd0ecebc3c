"""Schedules of numbers over a training: pure functions of its progress, and a table of them.

A schedule goes from 0 at the first step to 1 at the last, and is 0 in a single one. The scheduled number goes from
`from` to `to` with it.
Teacher annealing (Clark et al., "BAM! Born-Again Multi-Task Networks for Natural Language Understanding", 2019) is
`soft_weight: {from: 1.0, to: 0.0, schedule: linear}`. Those of the learning rate are made alike, from a table of their
own (`optimizer`), and give its factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workers.errors import RequestError
from workers.specs.objective import ScheduleSpec
from workers.specs.training import TrainingSpec
from workers.user_code import kinds

Schedule = Callable[[float], float]
"""`schedule(done) -> share`: the training's progress in [0, 1] -> the share of the way from `from` to `to`."""


@dataclass(frozen=True)
class Moment:
    """A step of a training: number `step` of the `steps` in epoch number `epoch` of `epochs`, counted from 0."""

    epoch: int
    epochs: int
    step: int
    steps: int

    def done(self, by: Literal["epoch", "step"]) -> float:
        """Progress of the training: 0 in the first step or epoch, 1 in the last, and 0 in a single one."""
        if by == "epoch":
            return self.epoch / max(self.epochs - 1, 1)
        return (self.epoch * self.steps + self.step) / max(self.epochs * self.steps - 1, 1)


def constant() -> Schedule:
    """Stays at `from`."""
    return lambda done: 0.0


def linear() -> Schedule:
    """Evenly from `from` to `to`."""
    return lambda done: done


def cosine() -> Schedule:
    """Along half a cosine: slowly at both ends (Loshchilov and Hutter, "SGDR", 2017)."""
    return lambda done: 0.5 * (1.0 - math.cos(math.pi * done))


def step(at: float | Sequence[float] = 0.5) -> Schedule:
    """In equal steps, at these shares of the training. at: numbers in (0, 1].

    Raises: `RequestError` for other values of `at`.
    """
    shares = [at] if isinstance(at, (int, float)) else list(at)
    if not shares or not all(isinstance(share, (int, float)) and 0.0 < share <= 1.0 for share in shares):
        raise RequestError(f"schedule 'step': `at` is {at!r}; expected shares of the training above 0 and up to 1.")
    return lambda done: sum(done >= share for share in shares) / len(shares)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "step": step,
}
"""Schedules by their name in `schedule:`; `module:Class` names the user's own. `kwargs` are the arguments."""


@dataclass(frozen=True)
class Value:
    """A number that follows a schedule. key: its key in the configuration. least: its lower bound.

    Raises: `RequestError` where the schedule gives a number below it, or none at all.
    """

    key: str
    start: float
    end: float
    schedule: Schedule
    by: Literal["epoch", "step"] = "step"
    least: float = 0.0
    is_fixed: bool = False
    """Whether it is known to be constant."""

    def at(self, moment: Moment) -> float:
        return self.when(moment.done(self.by))

    def when(self, done: float) -> float:
        """The number when this share of the training is done."""
        try:
            share = float(self.schedule(done))
        except Exception as error:  # the user's own code may raise anything
            raise RequestError(
                f"{self.key}: its schedule raised {type(error).__name__}: {error}. It was called with {done:g}, the "
                "share of the training that is done. Expected a number for every share: correct the schedule."
            ) from error
        moved = (1.0 - share) * self.start + share * self.end  # exact at both ends
        value = self.start if self.start == self.end and math.isfinite(moved) else moved  # stored T admits no rounding
        if not self.least <= value < math.inf:
            raise RequestError(
                f"{self.key}: its schedule gives {share:g} when {done:.0%} of the training is done, so the value is "
                f"{value:g}; expected a finite number of at least {self.least:g}."
            )
        return value


def make(
    key: str, spec: ScheduleSpec | TrainingSpec, table: Mapping[str, Callable[..., Schedule]], returned: str
) -> Schedule:
    """The schedule that a section names, by `table` or as the user's own class. key: of the schedule in the
    configuration. returned: what it returns, in words.

    Raises: `RequestError` for an unknown one, settings that it does not accept, or what cannot be called.
    """
    made: Any = kinds.make(key, spec.schedule, table, spec.kwargs, spec.folder)
    if not callable(made):
        raise RequestError(
            f"{key}: '{spec.schedule}' made {type(made).__name__}; expected what is called with the share of the "
            f"training that is done, from 0 to 1, and returns {returned}."
        )
    schedule: Schedule = made
    return schedule


def fixed(key: str, value: float) -> Value:
    """A constant number."""
    return Value(key, value, value, constant(), is_fixed=True)
