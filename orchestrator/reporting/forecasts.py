"""The forecast of an ensemble's worth as a table and sentences: what `stillhouse worth` shows before it is trained."""

from __future__ import annotations

import itertools

from orchestrator.reporting.content import Rows, between
from orchestrator.reporting.tables import significant
from orchestrator.reporting.verdict import interval
from workers.evaluation.prospects import Estimate, Forecast, Rival


def rows(found: Forecast) -> Rows:
    """The forecast as a table."""

    def row(name: str, of: Estimate, sign: str = "") -> list[list[str]]:
        def shown(value: float) -> str:
            return f"{100 * value:{sign}z.2f}"

        return [[name, shown(of.value), between((of.low, of.high), shown)]]

    def rivals(name: str, of: Rival) -> list[list[str]]:
        return [
            *row(f"one network, {significant(of.more)} times the {name}", of.measured),
            *row(f"one network, {found.count} times the {name}, forecast", of.as_much),
        ]

    return [
        ["on the validation split", "accuracy, %", "95% interval"],
        *row("one member", found.one),
        *row(f"{found.trained} members, trained", found.together),
        *row(f"{found.count} members, forecast", found.members),
        *row(f"gain of {found.count} members over one", found.gain, "+"),
        *itertools.chain.from_iterable(itertools.starmap(rivals, found.rivals.items())),
    ]


def verdict(found: Forecast) -> str:
    """The forecast in sentences."""
    gain = found.gain
    points = f"{100 * gain.value:+z.2f} points ({interval((gain.low, gain.high))})"
    parts = [
        f"{found.count} members are forecast to gain {points} over one, from {found.examples:,} validation examples."
    ]
    if gain.low <= 0 <= gain.high:
        parts.append("That is not resolved: a larger validation split, or another member, would tell more.")
    parts += [
        f"With a probability of {rival.beats:.0%} they are more accurate than one network with {found.count} times "
        f"the {name}."
        for name, rival in found.rivals.items()
    ]
    return " ".join(parts)
