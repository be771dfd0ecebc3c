"""The verdict on a run: sentences on the ensemble's gain and its transfer, for every order of the accuracies.

Accuracies are compared after rounding for the tables, so that no sentence contradicts the table beside it.
`orchestrator.reporting.report` supplies the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.reporting.report import Difference

DIGITS = 2
"""Decimal places of an accuracy in percent."""
MANY = 10.0
"""From this multiple of the ensemble's gain on, the student's gain is not shown as a percentage."""
Signs = tuple[int, int, int]
"""Of ensemble - baseline, student - baseline and student - ensemble."""


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Test accuracies, each a share of 1.

    members: of those that know all classes. kind: what these are called. specialists: number of the others. best,
    best_name: of the member that is best on the validation split. share: the 95% interval of the share of the
    ensemble's gain that reached the student, where it has one.
    """

    baseline: float
    ensemble: float
    student: float
    members: tuple[float, ...]
    best: float
    best_name: str
    kind: str = "members"
    specialists: int = 0
    share: tuple[float, float] | None = None
    differences: tuple[Difference, ...] = ()

    @property
    def unresolved(self) -> tuple[Difference, ...]:
        """The differences whose interval holds 0, or which have none."""
        return tuple(each for each in self.differences if not each.resolved)

    def is_unsure(self, of: str, over: str) -> bool:
        """Whether the difference of two systems is known, and not resolved."""
        return any((each.of, each.over) == (of, over) for each in self.unresolved)

    @property
    def may_be_chance(self) -> bool:
        """Whether the ensemble's difference to the baseline is not resolved."""
        return self.is_unsure("ensemble", "baseline")


@dataclass(frozen=True)
class Case:
    """The words on the share of the ensemble's gain that reached the student: a sentence, the cell of a table, and a
    short answer."""

    sentence: str
    cell: str = "no gain"
    answer: str = "There was no gain"


NO_GAIN = "so there was no gain to transfer"
UNSURE_ABOVE = "that it is above the baseline is not resolved"
OWN_MAY_BE_CHANCE = "Not shown: the student's gain may be chance"

CASES = {
    ((1, 1, -1), ""): Case(
        "{share}{interval} of the ensemble's gain reached the student.", "{share}", "Yes: {share} of the gain"
    ),
    ((1, 1, -1), "baseline"): Case(
        f"{{share}}{{interval}} of the ensemble's gain reached the student; {UNSURE_ABOVE}.",
        "{share} (not resolved)",
        OWN_MAY_BE_CHANCE,
    ),
    ((1, 1, 0), ""): Case("all of the ensemble's gain reached the student.", "all", "Yes: all of the gain"),
    ((1, 1, 0), "baseline"): Case(
        f"all of the ensemble's gain reached the student; {UNSURE_ABOVE}.", "all (not resolved)", OWN_MAY_BE_CHANCE
    ),
    ((1, 1, 1), ""): Case(
        "all of the ensemble's gain reached the student, which beats the ensemble: it gained {beyond}.",
        "{percent} (above the ensemble)",
        "Yes: all of the gain, and more",
    ),
    ((1, 1, 1), "baseline"): Case(
        f"all of the ensemble's gain reached the student; {UNSURE_ABOVE}.",
        "{percent} (not resolved)",
        OWN_MAY_BE_CHANCE,
    ),
    ((1, 1, 1), "ensemble"): Case(
        "all of the ensemble's gain reached the student; that it is above the ensemble is not resolved.",
        "{percent}",
        "Yes: all of the gain",
    ),
    ((1, 0, -1), ""): Case(
        "none of the ensemble's gain reached the student, which is level with the baseline.",
        "none",
        "No: none of the gain",
    ),
    ((1, -1, -1), ""): Case(
        "none of the ensemble's gain reached the student, which is below the baseline.",
        "none (below the baseline)",
        "No: it is below the baseline",
    ),
    ((1, -1, -1), "baseline"): Case(
        "none of the ensemble's gain reached the student; that it is below the baseline is not resolved.",
        "none",
        "No: none of the gain",
    ),
    ((0, 1, 1), ""): Case(f"the ensemble is level with the baseline, {NO_GAIN}; the student is above both."),
    ((0, 0, 0), ""): Case(f"all three are level, {NO_GAIN}."),
    ((0, -1, -1), ""): Case(f"the ensemble is level with the baseline, {NO_GAIN}; the student is below both."),
    ((-1, 1, 1), ""): Case(f"the ensemble is below the baseline, {NO_GAIN}; the student is above both."),
    ((-1, 0, 1), ""): Case(f"the ensemble is below the baseline, {NO_GAIN}; the student is level with the baseline."),
    ((-1, -1, 1), ""): Case(f"the ensemble is below the baseline, {NO_GAIN}; the student is between the two."),
    ((-1, -1, 0), ""): Case(f"the ensemble is below the baseline, {NO_GAIN}; the student is level with the ensemble."),
    ((-1, -1, -1), ""): Case(f"the ensemble is below the baseline, {NO_GAIN}; the student is below both."),
}
"""By the signs, all possible orders, and by the system beside which the student's place is not resolved, as far as it
changes the words; empty: none."""
MAY_BE_CHANCE = (
    "the ensemble's difference to the baseline may be chance, so no share of a gain is given; the student is {}."
)
BESIDE = {
    (1, 1): "above both",
    (1, 0): "above the baseline and level with the ensemble",
    (1, -1): "between the two",
    (0, 1): "level with the baseline and above the ensemble",
    (0, 0): "level with both",
    (0, -1): "level with the baseline and below the ensemble",
    (-1, 1): "between the two",
    (-1, 0): "below the baseline and level with the ensemble",
    (-1, -1): "below both",
}
"""By the signs of student - baseline and student - ensemble."""

OF_MEMBERS = {
    (-1, -1): "The ensemble is below the mean of its {kind}, {mean}, and below {name}, the best on the validation "
    "split, with {best}.",
    (-1, 0): "The ensemble is below the mean of its {kind}, {mean}, and level with {name}, the best on the validation "
    "split.",
    (-1, 1): "The ensemble is below the mean of its {kind}, {mean}.",
    (0, -1): "The ensemble is level with the mean of its {kind}, and below {name}, the best on the validation split, "
    "with {best}.",
    (0, 1): "The ensemble is level with the mean of its {kind}.",
    (1, -1): "The ensemble is below {name}, the best of its members on the validation split, with {best}.",
    (1, 0): "The ensemble is level with {name}, the best of its members on the validation split.",
}
"""By the signs of ensemble - mean of the members and ensemble - best member; other orders need no sentence."""


def of(found: Accuracies, accuracy_name: str) -> str:
    """The verdict on a run: its lead, then what is not resolved."""
    return " ".join([lead(found, accuracy_name), *map(of_unresolved, found.unresolved)])


def lead(found: Accuracies, accuracy_name: str) -> str:
    """The accuracies, and what they say of the gain, the student and the members."""
    figures = (
        f"The ensemble has {shown(found.ensemble)} {accuracy_name}, the hard-label baseline {shown(found.baseline)}, "
        f"the student {shown(found.student)}"
    )
    if found.may_be_chance:
        transfer = MAY_BE_CHANCE.format(BESIDE[signs(found)[1:]])
    else:
        transfer = case(found).sentence.format(interval=_of_share(found.share), **gain(found))
    return f"{figures}: {transfer}{_of_members(found)}"


def _of_share(share: tuple[float, float] | None) -> str:
    return "" if share is None else f" (95% interval {share[0]:.0%} to {share[1]:.0%})"


def of_unresolved(found: Difference) -> str:
    """The sentence on a difference that may be chance."""
    figures = f"{100 * found.accuracy:+z.2f} points, {interval(found.interval)}"
    return f"The difference between {found.of} and {found.over} ({figures}) is {unresolved(found.examples_needed)}."


def interval(bounds: tuple[float, float] | None) -> str:
    """The interval of a difference, in points."""
    return "no interval" if bounds is None else f"95% interval {100 * bounds[0]:+z.2f} to {100 * bounds[1]:+z.2f}"


def unresolved(needed: int | None) -> str:
    """Words on a difference that may be chance. needed: test examples that would resolve it."""
    more = "" if needed is None else f"; some {rounded(needed):,} test examples would resolve it"
    return f"not resolved at this test size{more}"


def rounded(count: int) -> int:
    """A count with two significant digits, upwards."""
    step: int = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // step) * step


def transferred(found: Accuracies) -> str:
    """The transferred share of the ensemble's gain, as a table cell."""
    return "not resolved" if found.may_be_chance else case(found).cell.format(**gain(found))


def case(found: Accuracies) -> Case:
    """The words for an order of the accuracies, and for what is not resolved of the student's place in it."""
    order = signs(found)
    unsure = [(order, other) for other in ("baseline", "ensemble") if found.is_unsure("student", other)]
    return CASES[next((key for key in unsure if key in CASES), (order, ""))]


def shown(accuracy: float) -> str:
    """An accuracy in the tables' format."""
    return f"{accuracy:.{DIGITS}%}"


def signs(found: Accuracies) -> Signs:
    return (
        sign(found.ensemble, found.baseline),
        sign(found.student, found.baseline),
        sign(found.student, found.ensemble),
    )


def sign(one: float, other: float) -> int:
    """Which of two accuracies is larger as printed: 1 the first, -1 the second, 0 neither."""
    a, b = (float(shown(accuracy).removesuffix("%")) for accuracy in (one, other))
    return (a > b) - (a < b)


def gain(found: Accuracies) -> dict[str, str]:
    """Values for the placeholders of the sentences: the student's gain as a share of the ensemble's."""
    if sign(found.ensemble, found.baseline) <= 0:
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
    if len(found.members) + found.specialists < 2:
        return ""
    mean = sum(found.members) / len(found.members)
    beside_mean = sign(found.ensemble, mean) if len(found.members) > 1 else 1
    order = beside_mean, sign(found.ensemble, found.best)
    text = OF_MEMBERS.get(order, "").format(
        kind=found.kind, mean=shown(mean), best=shown(found.best), name=found.best_name
    )
    return f" {text}" if text else ""
