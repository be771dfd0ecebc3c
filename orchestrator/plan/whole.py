"""The outlook of a run together with its further students and its repetitions with other seeds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.plan.outlook import Case, Outlook, PlannedStage, outlook, price
from orchestrator.plan.rates import Rates

ONCE = ("tokens", "members")
"""Stages of the first generation alone."""
SHARED = ("tokens", "members", "predictions", "soft targets")
"""Stages that a further student reuses."""


@dataclass(frozen=True)
class Timed:
    """A run, and how fast its parts are."""

    case: Case
    rates: Rates


@dataclass(frozen=True)
class Runs:
    """All that one command runs, in each of its repetitions: the first run, and those of the further students."""

    first: Timed
    students: Mapping[str, Timed] = field(default_factory=dict)

    def changed(self, change: Callable[[Case], Case | None]) -> Runs | None:
        """The same with a change of every run; None where one of them does not allow it."""
        found = {name: change(each.case) for name, each in {"": self.first, **self.students}.items()}
        cases = {name: case for name, case in found.items() if case is not None}
        if len(cases) < len(found):
            return None
        students = {name: Timed(cases[name], each.rates) for name, each in self.students.items()}
        return Runs(Timed(cases[""], self.first.rates), students)


def whole(runs: Runs) -> Outlook:
    """The outlook of all runs, with the stages that each further student does not reuse."""
    config = runs.first.case.config
    run = outlook(runs.first.case, runs.first.rates)
    stages, seconds = list(run.stages), run.seconds
    for name, student in runs.students.items():
        of = outlook(student.case, student.rates).stages
        own = [replace(stage, name=f"{stage.name}-{name}") for stage in of if stage.name not in SHARED]
        stages += own
        seconds += sum(stage.seconds for stage in own)
    for what, times, again in (
        ("generation", config.generations - 1, [stage for stage in stages if stage.name not in ONCE]),
        ("seed", config.seeds - 1, stages),
    ):
        if times:
            more = _repeated(f"{times} more {what}{'s' * (times > 1)}", again, times)
            stages = [*stages, more]
            seconds += more.seconds
    return replace(run, stages=tuple(stages), seconds=seconds, price=price(stages, config.report))


def _repeated(name: str, stages: Sequence[PlannedStage], times: int) -> PlannedStage:
    """Several stages so many times more, as one stage; a pass is taken as one that the student waits for."""
    return PlannedStage(
        name=name,
        where="as above",
        seconds=times * sum(each.seconds for each in stages),
        core_hours=times * sum(each.core_hours for each in stages),
        gpu_hours=times * sum(each.gpu_hours for each in stages),
        moved=times * sum(each.moved for each in stages),
        stored=times * sum(each.stored for each in stages),
    )
