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


def of_grid(axes: Sequence[Axis]) -> Proposals:
    """Every combination.

    Runs find what others have completed, and runs of one batch are side by side. So the first runs alone, then one run
    for each setting of what changes all, for each ensemble, each baseline and all soft targets, then all others.
    """
    every = points(axes)
    wholes = _first_of_each(every, (TEACHERS, TARGETS, STUDENTS))
    ensembles = _first_of_each(every, (TARGETS, STUDENTS))
    baselines = _first_of_each(every, (TARGETS, TEACHERS))
    targets = _first_of_each(every, (STUDENTS,))
    waves = [every[:1], wholes, ensembles, baselines, targets, every]
    done: list[Point] = []
    for wave in waves:
        new = [point for point in wave if point not in done]
        done += new
        if new:
            yield new


def _first_of_each(every: Sequence[Point], without: tuple[str, ...]) -> list[Point]:
    """The first point of each combination of all keys but those that begin so."""
    found: dict[str, Point] = {}
    for point in every:
        found.setdefault(repr([(key, value) for key, value in point.items() if not key.startswith(without)]), point)
    return list(found.values())


def of_search(axes: Sequence[Axis], trials: int, batch: int, seed: int) -> Proposals:
    """Points of Optuna's TPE sampler (Bergstra et al. 2011), which maximises the student's validation accuracy.

    batch: points that follow from the same outcomes. The same seed, batch and outcomes give the same points, so a
    repeated search finds its complete runs again. Raises: `RequestError` where Optuna is not installed.
    """
    optuna = _optuna()
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
