"""`ensemble.stop_when_flat`: members are trained in rounds, until the next one is expected to add too little.

The rounds are untracked runs of members alone in the same storage, `<name>-grown`; the run proper reuses these members.
All is measured on the validation split, since the answer decides how many members the test split is measured with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator import execution
from orchestrator.cluster import connection, resources
from orchestrator.config import names
from orchestrator.config.ensemble import FIRST_MEMBERS
from orchestrator.config.run_config import RunConfig
from orchestrator.pipeline import HELD_OUT, MEMBERS
from orchestrator.reporting.verdict import interval
from orchestrator.stages.context import Options
from workers.evaluation.prospects import Estimate, next_worth


@dataclass(frozen=True)
class Grown:
    """A run with as many members as are worth training. note: why there are so many."""

    config: RunConfig
    note: str


def grown(config: RunConfig, options: Options) -> Grown:
    """Train members in rounds, as many at a time as the cluster holds, and settle their number.

    The number does not depend on the rounds: it is the first after which the next member is worth too little, so that
    a larger cluster may have trained some members in vain. options: of the run proper.

    Raises: as `execution.executed`.
    """
    ensemble, flat = config.ensemble, config.ensemble.stop_when_flat
    most = ensemble.count
    assert flat is not None and most is not None  # as the schema requires
    if most == 1:
        return Grown(config.of_members(1), "")
    with connection.connect(
        ensemble.start_timeout_s, verbose=options.verbose, wait_for=options.screen.wait_for
    ) as machines:
        at_once = resources.at_once(resources.place(ensemble, machines), machines)
        trained, judged = min(most, max(FIRST_MEMBERS, at_once)), min(most, FIRST_MEMBERS)
        while True:
            worths = _worths(config, trained, replace(options, tracked=False))
            for count in range(judged, trained + 1):
                worth = worths[count - 2]
                if count == most or 100 * worth.high < flat:
                    return Grown(config.of_members(count), _note(count, most, worth, flat))
            trained, judged = min(most, trained + at_once), trained + 1


def _worths(config: RunConfig, count: int, options: Options) -> list[Estimate]:
    """What one more member is expected to add in accuracy to the first 2, 3, ... `count`; the first entry is of 2."""
    few = config.of_members(count).part(names.GROWN)
    found = execution.executed(few, (MEMBERS, HELD_OUT), options)[HELD_OUT]
    assert found.worth is not None
    singles = [each.of_blocks for each in found.sums.values()][:count]
    together = [each.of_blocks for each in found.worth.best]
    return [next_worth(singles[:k], together[k - 1], config.seed) for k in range(2, count + 1)]


def _note(count: int, most: int, worth: Estimate, flat: float) -> str:
    expected = f"the next is expected to add {100 * worth.value:+z.2f} points ({interval((worth.low, worth.high))})"
    if count == most:
        return f"All {most} members are trained: {expected}."
    return f"Stopped at {count} of {most} members: {expected}, below `stop_when_flat: {flat:g}`."
