"""The user's own metrics: functions of predictions, called and checked.

`try_out` calls each metric on random predictions before a run begins. So a metric that raises or returns a wrong type
costs seconds and not the run.
"""

from __future__ import annotations

import math
import re
import signal
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from workers.data.arrays import ROWS_AT_ONCE, Float64, Index
from workers.errors import RequestError
from workers.evaluation import bootstrap
from workers.evaluation.bootstrap import Interval
from workers.specs.base import FactorySpec
from workers.user_code import calls, factories

BUILT_IN = frozenset(
    {"examples", "accuracy", "nll", "ece", "brier", "macro_f1", "perplexity", "errors", "figure", "interval", "extra"}
)
"""Metric names that the report already uses for every system."""
INTERVAL = "_interval"
"""Suffix of the report's confidence intervals."""
NAME = re.compile(r"(?=.{1,100}$)\w[\w. -]*(?:/\w[\w. -]*)*")
"""Metric names that MLflow accepts: parts separated by slashes."""
LIMIT_S = 5.0
"""Time limit of one metric in `try_out`."""

Returned = float | Float64
"""What a metric gives a name: a number, or of each unit its sum and its count, [U, 2]."""


@dataclass(frozen=True)
class Metric:
    """A figure of one system. interval: 95%, over test examples or other units; None where there is none."""

    value: float
    interval: Interval | None = None


def call(
    specs: Sequence[FactorySpec], probabilities: NDArray[np.float32], labels: Index, blocks: Index
) -> dict[str, Metric]:
    """All metrics of one system's predictions.

    probabilities: [N, K]. labels: [N] int64. blocks: [N] int64, what each row is drawn together with, for metrics that
    return a sum and a count of each row. Raises: `RequestError` where a metric raises, or returns anything but finite
    numbers, or pairs of sums and counts, under names not yet in use.
    """
    found: dict[str, Returned] = {}
    for spec in specs:
        found.update(_call(spec, probabilities, labels, found))
    return {name: _metric(value, blocks) for name, value in found.items()}


def _metric(returned: Returned, blocks: Index) -> Metric:
    if isinstance(returned, float):
        return Metric(returned)
    sums, counts = returned.T
    interval = bootstrap.of_ratio(sums, counts, blocks if len(sums) == len(blocks) else None)
    return Metric(float(sums.sum() / counts.sum()), interval)


def try_out(specs: Sequence[FactorySpec], labels: Index, classes: int, seed: int) -> tuple[str, ...]:
    """Call every metric on random probabilities, for at most `LIMIT_S` each.

    labels: [N] int64, of the whole test split, since a metric may depend on its examples. seed: of the random
    probabilities. Returns notes for the user on metrics that exceed the limit. Raises: as `call`.
    """
    if not specs:
        return ()
    probabilities, labels = _drawn(len(labels), classes, seed), labels.copy()
    for array in (probabilities, labels):
        array.flags.writeable = False  # as in the evaluation, where Ray returns read-only arrays
    found: dict[str, Returned] = {}
    notes = []
    given = _checksums(probabilities, labels)
    for spec in specs:
        try:
            with _limited(LIMIT_S):
                found.update(_call(spec, probabilities, labels, found))
            if _checksums(probabilities, labels) != given:  # torch.from_numpy ignores the read-only flag
                raise RequestError(
                    f"evaluation.metrics: '{spec.factory}' changed its arguments, which other metrics get as well. "
                    "Expected it to leave them as they are: let it work on a copy, such as probabilities.copy()."
                )
        except _TooLong:
            notes.append(
                f"evaluation.metrics: '{spec.factory}' takes more than {LIMIT_S:g} s for the test split, so what it "
                "returns is first seen in the evaluation."
            )
    return tuple(notes)


def _call(
    spec: FactorySpec, probabilities: NDArray[np.float32], labels: Index, known: Mapping[str, Returned]
) -> dict[str, Returned]:
    metric = factories.bound(spec)
    name = f"evaluation.metrics: '{spec.factory}'"
    shapes = f"probabilities {list(probabilities.shape)} float32 and labels {list(labels.shape)} int64, both read-only"
    arguments = "".join(f", {key}={value!r}" for key, value in spec.kwargs.items())
    with calls.checked(f"{name} raised", f". It was called with {shapes}{arguments}."):
        returned = metric(probabilities, labels)
    if not isinstance(returned, Mapping):
        raise RequestError(f"{name} returned {type(returned).__name__}; expected a dictionary of names and numbers.")
    for key in returned:
        _check_name(key, name, known)
    return {
        key: _pair(value, key, name) if isinstance(value, (tuple, list)) else _number(value, key, name)
        for key, value in returned.items()
    }


def _check_name(key: object, metric: str, known: Mapping[str, Returned]) -> None:
    if not isinstance(key, str) or NAME.fullmatch(key) is None:
        raise RequestError(
            f"{metric} returned the name {key!r}; expected a text of letters, digits, '_', '-', '.', '/' and spaces."
        )
    if key in BUILT_IN or key.endswith(INTERVAL) or hasattr(BaseModel, key):
        raise RequestError(f"{metric} returned the name '{key}', which every report has already. Choose another.")
    if key in known:
        raise RequestError(
            f"{metric} returned the name '{key}', and so does another metric. Expected a name of its own for each, "
            "for example by a keyword argument."
        )


def _number(value: Any, key: str, metric: str) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{metric} returned {type(value).__name__} for '{key}'; expected a number.") from error
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RequestError(
            f"{metric} returned {number} for '{key}'; expected a finite number whatever the predictions are, for "
            "example 0 where a class is never predicted."
        )
    return number


def _pair(value: Sequence[Any], key: str, metric: str) -> Float64:
    """Sums and counts of units, [U, 2]."""
    expected = "expected (sums, counts), two arrays of a finite number for each unit, such as an utterance"
    try:
        of_units = np.stack([np.asarray(part, np.float64) for part in value], axis=-1)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{metric} returned for '{key}' a pair that is none of arrays ({error}); {expected}."
        ) from None
    if of_units.ndim != 2 or of_units.shape[1] != 2:
        shapes = " and ".join(str(list(np.shape(part))) for part in value) or "none"
        raise RequestError(f"{metric} returned for '{key}' arrays of the shapes {shapes}; {expected}.")
    counts = of_units[:, 1]
    if not np.isfinite(of_units).all() or (counts < 0).any() or not counts.sum() > 0:
        raise RequestError(
            f"{metric} returned for '{key}' numbers from {of_units.min():g} to {of_units.max():g} and counts that add "
            f"up to {counts.sum():g}; {expected}, and counts of 0 and more that add up to more than 0."
        )
    return of_units


def _checksums(*arrays: NDArray[Any]) -> list[int]:
    return [zlib.crc32(array.data) for array in arrays]


def _drawn(rows: int, classes: int, seed: int) -> NDArray[np.float32]:
    """softmax of noise: [rows, classes] float32, computed block by block in place, to hold it in memory only once."""
    rng = np.random.default_rng(seed)
    found = np.empty((rows, classes), np.float32)
    for start in range(0, rows, ROWS_AT_ONCE):
        some = found[start : start + ROWS_AT_ONCE]
        rng.standard_normal(out=some, dtype=np.float32)
        np.exp(some, out=some)
        some /= some.sum(axis=1, keepdims=True)
    return found


class _TooLong(BaseException):
    """A metric exceeded its time limit. Not an Exception, which the metric itself might catch."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `_TooLong` in the block after `seconds`. There is no limit outside the main thread, which gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
