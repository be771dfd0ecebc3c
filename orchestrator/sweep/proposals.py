"""Which points of a sweep run next: generators that yield batches of points and receive the outcomes of each batch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from orchestrator.config.grid import Axis, Choices, Point, points
from orchestrator.reporting.sweeps import SweptRun
from workers.errors import RequestError

Proposals = Generator[list[Point], list[SweptRun], None]
"""Yields the points of the next batch; receives their runs, in the same order."""
TEACHERS, TARGETS, STUDENTS = "ensemble.", "distillation.", "student."
"""Beginnings of keys by what they change: the ensemble, and with it the soft targets; the soft targets alone; student
and baseline. Other keys, such as those of the data, change all."""
SHARED = (("",), (TARGETS, STUDENTS), (TARGETS, TEACHERS), (STUDENTS,))
"""What runs share, by the beginnings of keys that do not change it: what no key changes, such as texts as tokens;
the ensemble; the baseline; the soft targets."""


def of_grid(axes: Sequence[Axis]) -> Proposals:
    """Every combination, in one batch."""
    yield points(axes)


def side_by_side(left: Sequence[Point], done: Sequence[Point]) -> list[int]:
    """Which of the points `left` may run now, by their places: such that no two of them make the same.

    A run finds what those of the points `done` have completed; runs side by side would each make it.
    """
    made = {each for point in done for each in _makes(point)}
    making: set[str] = set()
    found = []
    for place, point in enumerate(left):
        new = _makes(point) - made
        if not new & making:
            found.append(place)
            making |= new
    return found


def _makes(point: Point) -> set[str]:
    """What a run completes that others may share: each with the keys that change it and their values."""
    return {
        repr([without, *((key, value) for key, value in point.items() if not key.startswith(without))])
        for without in SHARED
    }


def of_search(axes: Sequence[Axis], trials: int, batch: int, seed: int) -> Proposals:
    """Points of Optuna's TPE sampler (Bergstra et al. 2011), which maximises the student's validation accuracy.

    batch: points that follow from the same outcomes. The same seed, batch and outcomes give the same points, so a
    repeated search finds its complete runs again. Raises: `RequestError` at once where Optuna is not installed.
    """
    return _searched(_optuna(), axes, trials, batch, seed)


def _searched(optuna: Any, axes: Sequence[Axis], trials: int, batch: int, seed: int) -> Proposals:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for start in range(0, trials, batch):
        asked = [study.ask() for _ in range(min(batch, trials - start))]
        outcomes = yield [{axis.key: _suggested(trial, axis) for axis in axes} for trial in asked]
        for trial, outcome in zip(asked, outcomes, strict=True):
            failed = outcome.validation_accuracy is None
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            study.tell(trial, outcome.validation_accuracy, state=state)


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise RequestError("--trials: a search needs Optuna: pip install 'stillhouse[search]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _suggested(trial: Any, axis: Axis) -> Any:
    if isinstance(axis, Choices):
        return axis.values[trial.suggest_categorical(axis.key, list(range(len(axis.values))))]
    if axis.is_whole:
        return trial.suggest_int(axis.key, axis.low, axis.high, log=axis.log)
    return trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
