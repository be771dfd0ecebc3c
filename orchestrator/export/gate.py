"""The gate: whether an exported student may be written and registered. Pure, so that a table tests it.

The share is the accuracy of the exported artefact over that of the ensemble, on the same test examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.errors import GateError, RequestError


@dataclass(frozen=True)
class Gate:
    """The thresholds of an export; None: not asked for.

    min_share: of the ensemble's accuracy. max_latency_ms: of the 99th percentile of one example. confidence: the level
    of the interval of the share whose lower end has to reach `min_share`; None: the share itself has to.
    """

    min_share: float | None = None
    max_latency_ms: float | None = None
    confidence: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it lets everything through."""
        return self.min_share is None and self.max_latency_ms is None


@dataclass(frozen=True)
class Passed:
    """What was measured of the artefact. share_low: the lower end of the share's interval; None without one. as_float:
    the share before it was quantized; None where it was not."""

    share: float
    share_low: float | None
    p99_ms: float
    as_float: float | None = None


def check(gate: Gate, *, registers: bool) -> None:
    """Raise `RequestError` where the thresholds make no gate. registers: whether the student would be registered."""
    for option, value, expected in (
        ("--min-share", gate.min_share, "a share of the ensemble's accuracy above 0, up to 1, such as 0.97"),
        ("--confidence", gate.confidence, "a level between 0.5 and 1, such as 0.95"),
        ("--max-latency-ms", gate.max_latency_ms, "milliseconds above 0"),
    ):
        if value is not None and not LIMITS[option][0] < value <= LIMITS[option][1]:
            raise RequestError(f"{option}: {value:g}; expected {expected}.")
    if gate.confidence is not None and gate.min_share is None:
        raise RequestError(
            f"--confidence {gate.confidence:g}: a gate without a threshold, since it is the level of the share's "
            "interval. Expected `--min-share` beside it, such as `--min-share 0.97`."
        )
    if registers and gate.is_open:
        raise RequestError(
            "--register: the alias `champion` is given through the gate alone, and no threshold is set. Expected "
            "`--min-share`, `--max-latency-ms`, or both."
        )


LIMITS = {"--min-share": (0.0, 1.0), "--confidence": (0.5, 1 - 1e-6), "--max-latency-ms": (0.0, 1e9)}
"""Of each threshold: above the first number, up to the second."""


def shortfalls(gate: Gate, found: Passed) -> list[str]:
    """What falls short of the thresholds, by how much, and what would help; empty where the gate is met."""
    return [*_of_share(gate, found), *_of_latency(gate, found)]


def enforce(gate: Gate, found: Passed) -> None:
    """Raise `GateError` unless the gate is met."""
    short = shortfalls(gate, found)
    if short:
        raise GateError("\n".join(["the gate is not met; nothing was written or registered.", *short]))


def _of_share(gate: Gate, found: Passed) -> Sequence[str]:
    least = gate.min_share
    if least is None:
        return []
    reached = found.share if gate.confidence is None else found.share_low
    if reached is not None and reached >= least:
        return []
    if reached is None:
        return [
            f"--confidence: the share of the ensemble's accuracy, {_percent(found.share)}, has no interval, since the "
            "test set has too few examples or groups. More test examples would help."
        ]
    if found.share >= least:
        return [
            f"--min-share: it keeps {_percent(found.share)} of the ensemble's accuracy, and the lower end of the "
            f"{_level(gate.confidence)} interval is {_percent(reached)}; expected at least {_percent(least)}: "
            f"{_points(least - reached)} short. More test examples would narrow the interval."
        ]
    bound = "" if gate.confidence is None else f" ({_level(gate.confidence)} interval from {_percent(reached)})"
    if found.as_float is not None and found.as_float >= least:
        helps = f"Without `--quantize` it keeps {_percent(found.as_float)}."
    else:
        helps = "A larger student, more unlabelled examples, or longer training would help."
    return [
        f"--min-share: it keeps {_percent(found.share)} of the ensemble's accuracy{bound}; expected at least "
        f"{_percent(least)}: {_points(least - reached)} short. {helps}"
    ]


def _of_latency(gate: Gate, found: Passed) -> Sequence[str]:
    most = gate.max_latency_ms
    if most is None or found.p99_ms <= most:
        return []
    helps = "A smaller student, shorter inputs" + (", `--quantize int8`" if found.as_float is None else "")
    return [
        f"--max-latency-ms: p99 of one example is {found.p99_ms:.3g} ms on one thread; expected at most {most:g} ms: "
        f"{found.p99_ms - most:.3g} ms too slow. {helps}, or a machine without other work would help."
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _points(share: float) -> str:
    return f"{100 * share:.2g} points"


def _level(confidence: float | None) -> str:
    return "" if confidence is None else f"{100 * confidence:g}%"
