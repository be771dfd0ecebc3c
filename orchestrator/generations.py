"""Generations of students, each the teacher of the next, and all of them together.

Born-again networks (Furlanello et al. 2018). Each generation is a run of its own. Here their students are compared on
the test split, each with the one before, and become the members of one more ensemble, `<name>-generations`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from orchestrator import execution
from orchestrator.config.run_config import STUDENT, RunConfig
from orchestrator.pipeline import MEMBERS, PREDICTIONS
from orchestrator.reporting import report as reports
from orchestrator.reporting import statistics, sums
from orchestrator.reporting.report import Difference, GenerationFigures
from orchestrator.stages.context import Options
from workers.data.arrays import Float64
from workers.evaluation.bootstrap import bounds_of
from workers.evaluation.tasks import ENSEMBLE


def compared(config: RunConfig, options: Options) -> list[GenerationFigures]:
    """The figures of each generation, whose runs are complete, and of all together; empty without several.

    options: of the run that they belong to.

    Raises: as `execution.executed`.
    """
    runs = config.of_generations()
    if not runs:
        return []
    whole = config.of_all_generations()
    together = execution.executed(whole, (MEMBERS, PREDICTIONS), replace(options, tracked=False))[PREDICTIONS]
    names = [f"generation {number + 1}" for number in range(len(runs))]
    of_each = [sums.read(each.folder)[0][STUDENT] for each in runs]
    found = dict(zip(names, of_each, strict=True)) | {"all together": together.measured[ENSEMBLE].sums.of_blocks}
    over = [None, *(_over(pair, found) for pair in pairwise(found))]
    where = [*(each.name for each in runs), whole.name]
    return [
        _figures(name, run, found[name], difference) for name, run, difference in zip(found, where, over, strict=True)
    ]


def _figures(name: str, run: str, of: Float64, over: Difference | None) -> GenerationFigures:
    accuracy, interval = statistics.accuracy(of)
    return GenerationFigures(name=name, run=run, accuracy=accuracy, accuracy_interval=bounds_of(interval), over=over)


def _over(pair: tuple[str, str], found: dict[str, Float64]) -> Difference:
    """The accuracy of the second over that of the first."""
    before, after = pair
    return reports.as_difference(statistics.difference(found[after], found[before], (after, before)))
