"""The verdict on a run: sentences on the ensemble's gain and its transfer, for every order of the accuracies.

Accuracies are compared after rounding for the tables, so that no sentence contradicts the table beside it.
`orchestrator.reporting.report` supplies the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

DIGITS = 2
"""Decimal places of an accuracy in percent."""
MANY = 10.0
"""From this multiple of the ensemble's gain on, the student's gain is not shown as a percentage."""


@dataclass(frozen=True)
class Accuracies:
    """Test accuracies, each a share of 1. `best_name`: the member of the highest accuracy."""

    baseline: float
    ensemble: float
    student: float
    members: tuple[float, ...]
    best_name: str


NO_GAIN = "so there was no gain to transfer"

TRANSFER = {
    (1, 1, -1): "{share} of the ensemble's gain reached the student.",
    (1, 1, 0): "all of the ensemble's gain reached the student.",
    (1, 1, 1): "all of the ensemble's gain reached the student, which beats the ensemble: it gained {beyond}.",
    (1, 0, -1): "none of the ensemble's gain reached the student, which is level with the baseline.",
    (1, -1, -1): "none of the ensemble's gain reached the student, which is below the baseline.",
    (0, 1, 1): f"the ensemble is level with the baseline, {NO_GAIN}; the student is above both.",
    (0, 0, 0): f"all three are level, {NO_GAIN}.",
    (0, -1, -1): f"the ensemble is level with the baseline, {NO_GAIN}; the student is below both.",
    (-1, 1, 1): f"the ensemble is below the baseline, {NO_GAIN}; the student is above both.",
    (-1, 0, 1): f"the ensemble is below the baseline, {NO_GAIN}; the student is level with the baseline.",
    (-1, -1, 1): f"the ensemble is below the baseline, {NO_GAIN}; the student is between the two.",
    (-1, -1, 0): f"the ensemble is below the baseline, {NO_GAIN}; the student is level with the ensemble.",
    (-1, -1, -1): f"the ensemble is below the baseline, {NO_GAIN}; the student is below both.",
}
"""By the signs of ensemble - baseline, student - baseline and student - ensemble: all possible orders."""

IN_A_TABLE = {
    (1, 1, -1): "{share}",
    (1, 1, 0): "all",
    (1, 1, 1): "{percent} (above the ensemble)",
    (1, 0, -1): "none",
    (1, -1, -1): "none (below the baseline)",
}
"""The corresponding table cells; "no gain" for every other order."""

OF_MEMBERS = {
    (-1, -1): "The ensemble is below the mean of its members, {mean}, and below the best of them, {name} with {best}.",
    (0, -1): "The ensemble is level with the mean of its members, and below the best of them, {name} with {best}.",
    (1, -1): "The ensemble is below the best of its members, {name} with {best}.",
    (1, 0): "The ensemble is level with the best of its members, {name}.",
}
"""By the signs of ensemble - mean of the members and ensemble - best member; other orders need no sentence."""


def of(found: Accuracies, accuracy_name: str) -> str:
    """The verdict on a run."""
    figures = (
        f"The ensemble has {shown(found.ensemble)} {accuracy_name}, the hard-label baseline {shown(found.baseline)}, "
        f"the student {shown(found.student)}"
    )
    return f"{figures}: {TRANSFER[_signs(found)].format(**_gain(found))}" + _of_members(found)


def transferred(found: Accuracies) -> str:
    """The transferred share of the ensemble's gain, as a table cell."""
    return IN_A_TABLE.get(_signs(found), "no gain").format(**_gain(found))


def shown(accuracy: float) -> str:
    """An accuracy in the tables' format."""
    return f"{accuracy:.{DIGITS}%}"


def _signs(found: Accuracies) -> tuple[int, int, int]:
    return (
        _sign(found.ensemble, found.baseline),
        _sign(found.student, found.baseline),
        _sign(found.student, found.ensemble),
    )


def _sign(one: float, other: float) -> int:
    """Which of two accuracies is larger as printed: 1 the first, -1 the second, 0 neither."""
    a, b = (float(shown(accuracy).removesuffix("%")) for accuracy in (one, other))
    return (a > b) - (a < b)


def _gain(found: Accuracies) -> dict[str, str]:
    """Values for the placeholders of the sentences: the student's gain as a share of the ensemble's."""
    if _sign(found.ensemble, found.baseline) <= 0:
        return {}
    gain = (found.student - found.baseline) / (found.ensemble - found.baseline)
    if gain >= MANY:
        return {"percent": f"{gain:.0f} times", "beyond": f"{gain:.0f} times what the ensemble gained"}
    percent = f"{gain:.1%}"
    below = {"0.0%": "less than 0.1%", "100.0%": "more than 99.9%"}.get(percent, percent)
    above = {"100.0%": "more than 100%"}.get(percent, percent)
    return {"share": below, "percent": above, "beyond": f"{above} of what the ensemble gained"}


def _of_members(found: Accuracies) -> str:
    """A space and a sentence that compares the ensemble with its members; empty for a single member."""
    if len(found.members) < 2:
        return ""
    mean, best = sum(found.members) / len(found.members), max(found.members)
    signs = _sign(found.ensemble, mean), _sign(found.ensemble, best)
    text = OF_MEMBERS.get(signs, "").format(mean=shown(mean), best=shown(best), name=found.best_name)
    return f" {text}" if text else ""
