"""The gate: whether an exported student may be written and registered. Pure, so that a table tests it.

The share is the accuracy of the exported artefact over that of the ensemble, on the same test examples. It is a ratio
of two counts and a threshold a decimal number, so that both are fractions: rounding decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from workers.errors import GateError, RequestError

Threshold = float | Fraction
"""A threshold; a float stands for the shortest decimal number that rounds to it, so 0.97 for 97/100."""
CLOCK_DIGITS = 6
"""Decimal digits of a latency in ms that a clock of nanoseconds has."""
END_DIGITS = 12
"""Decimal digits that the end of an interval is computed to."""


@dataclass(frozen=True)
class Gate:
    """The thresholds of an export; None: not asked for.

    min_share: of the ensemble's accuracy. max_latency_ms: of the 99th percentile of one example. confidence: the level
    of the interval of the share whose lower end has to reach `min_share`; None: the share itself has to.
    """

    min_share: Threshold | None = None
    max_latency_ms: Threshold | None = None
    confidence: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it lets everything through."""
        return self.min_share is None and self.max_latency_ms is None


@dataclass(frozen=True)
class Passed:
    """What was measured of the artefact. share: None where the ensemble is never right. share_low: the lower end of the
    share's interval; None without one. as_float: the share before it was quantized; None where it was not."""

    share: Fraction | None
    share_low: float | None
    p99_ms: float
    as_float: Fraction | None = None


def threshold(text: str) -> Threshold:
    """The decimal number that an option has. Raises: ValueError for another text.

    0, NaN and numbers beyond those of floats stay floats, which `check` refuses.
    """
    value = float(text)
    return Fraction(text) if value and math.isfinite(value) else value


def _exact(value: Threshold) -> Fraction:
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


def _rounded(value: float, digits: int) -> Fraction | None:
    """A measured number by its decimal digits; None for NaN and infinity."""
    return _exact(round(float(value), digits)) if math.isfinite(value) else None


def check(gate: Gate, *, registers: bool) -> None:
    """Raise `RequestError` where the thresholds make no gate. registers: whether the student would be registered."""
    for option, value, expected in (
        ("--min-share", gate.min_share, "a share of the ensemble's accuracy above 0, up to 2, such as 0.97"),
        (
            "--confidence",
            gate.confidence,
            f"a level above 0.5, up to {HIGHEST}, such as 0.95: a higher one takes more resamples",
        ),
        ("--max-latency-ms", gate.max_latency_ms, "milliseconds above 0"),
    ):
        if value is not None and not LIMITS[option][0] < value <= LIMITS[option][1]:
            raise RequestError(f"{option}: {float(value)!r}; expected {expected}.")
    if gate.confidence is not None and gate.min_share is None:
        raise RequestError(
            f"--confidence {gate.confidence:g}: the level of the share's interval, and no share is asked for. Expected "
            "`--min-share` beside it, such as `--min-share 0.97`."
        )
    if registers and gate.is_open:
        raise RequestError(
            "--register: the alias `champion` is given through the gate alone, and no threshold is set. Expected "
            "`--min-share`, `--max-latency-ms`, or both."
        )


HIGHEST = 0.995
"""The highest level of an interval: beyond each of its ends are 12 of the 4,999 resamples."""
LIMITS = {"--min-share": (0.0, 2.0), "--confidence": (0.5, HIGHEST), "--max-latency-ms": (0.0, 1e9)}
"""Of each threshold: above the first number, up to the second. A student may be right more often than the ensemble, so
a share above 1 is a threshold that may be met or not; one of 97 is a percentage."""


def shortfalls(gate: Gate, found: Passed) -> list[str]:
    """What falls short of the thresholds, by how much, and what would help; empty where the gate is met."""
    return [*_of_share(gate, found), *_of_latency(gate, found)]


def enforce(gate: Gate, found: Passed) -> None:
    """Raise `GateError` unless the gate is met."""
    short = shortfalls(gate, found)
    if short:
        raise GateError("\n".join(["the gate is not met; nothing was written or registered.", *short]))


def _of_share(gate: Gate, found: Passed) -> Sequence[str]:
    if gate.min_share is None:
        return []
    least, share = _exact(gate.min_share), found.share
    if share is None:
        return ["--min-share: the ensemble is right on no test example, so that there is no share of its accuracy."]
    low = None if found.share_low is None else _rounded(found.share_low, END_DIGITS)
    reached = share if gate.confidence is None else low
    if reached is not None and reached >= least:
        return []
    if reached is None:
        return [
            f"--confidence: the share of the ensemble's accuracy, {_percent(share)}, has no interval, since the "
            "test set has too few examples or groups. More test examples would help."
        ]
    if share >= least:
        return [
            f"--min-share: it keeps {_percent(share)} of the ensemble's accuracy, and the lower end of the "
            f"{_level(gate.confidence)} interval is {_percent(reached)}; expected at least {_percent(least)}: "
            f"{_points(least - reached)} short. More test examples would narrow the interval."
        ]
    bound = of_low = ""
    if gate.confidence is not None:
        bound = f" ({_level(gate.confidence)} interval from {_percent(reached)})"
        of_low = f", and the interval's lower end, which `--confidence` asks for, {_points(least - reached)}"
    if found.as_float is not None and found.as_float >= least:
        helps = f"Without `--quantize` it keeps {_percent(found.as_float)}."
    else:
        helps = "A larger student, more unlabelled examples, or longer training would help."
    return [
        f"--min-share: it keeps {_percent(share)} of the ensemble's accuracy{bound}; expected at least "
        f"{_percent(least)}: {_points(least - share)} short{of_low}. {helps}"
    ]


def _of_latency(gate: Gate, found: Passed) -> Sequence[str]:
    if gate.max_latency_ms is None:
        return []
    most, p99 = _exact(gate.max_latency_ms), _rounded(found.p99_ms, CLOCK_DIGITS)
    if p99 is not None and p99 <= most:
        return []
    helps = "A smaller student, shorter inputs" + (", `--quantize int8`" if found.as_float is None else "")
    return [
        f"--max-latency-ms: p99 of one example is {found.p99_ms:.3g} ms on one thread; expected at most "
        f"{float(most):g} ms: {found.p99_ms - float(most):.3g} ms too slow. {helps}, or a machine without other work "
        "would help."
    ]


def _percent(share: Fraction) -> str:
    return f"{100 * float(share):.2f}%"


def _points(share: Fraction) -> str:
    return f"{100 * float(share):.2g} points"


def _level(confidence: float | None) -> str:
    return "" if confidence is None else f"{100 * confidence:g}%"
