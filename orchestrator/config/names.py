"""Names of the runs and systems that belong to a run, in one table, so that no two of them are the same.

A run `x` has its rounds of growth in `x-grown`, its repetition with seed 1 in `x-seed-1`, and so on. Its further
students, and the points of a sweep over it, have endings of the user's, which must be none of these.
"""

from __future__ import annotations

MOST = 100
"""Characters of a run's name."""
GROWN, WORTH, SWEEP, GENERATIONS, CORRECTED = "grown", "worth", "sweep", "generations", "corrected"
SEED, GENERATION = "seed", "generation"
NUMBERED = {SEED: "a repetition of `seeds`", GENERATION: "one of `generations`"}
"""Endings with a number, by what takes them."""
TAKEN = {
    GROWN: "the rounds of `ensemble.stop_when_flat`",
    WORTH: "`stillhouse worth`",
    SWEEP: "`stillhouse sweep`",
    GENERATIONS: "all `generations` together",
    CORRECTED: "the student with `evaluation.corrected_classes`",
}
"""Other endings, by what takes them."""


def numbered(ending: str, number: int) -> str:
    """The ending of a repetition, by its seed, or of a generation."""
    return f"{ending}-{number}"


def taken_by(ending: str) -> str:
    """What takes an ending; empty where it is free."""
    first, hyphen, _ = ending.partition("-")
    return TAKEN.get(ending) or (NUMBERED.get(first, "") if hyphen else "")
