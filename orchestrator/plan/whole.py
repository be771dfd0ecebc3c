"""The outlook of a run together with its further students and its repetitions with other seeds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from orchestrator.config.student import StudentSpec
from orchestrator.plan.outlook import Case, Outlook, PlannedStage, outlook
from orchestrator.plan.plan import plan
from orchestrator.plan.rates import BACKWARD, Rates
from workers import storage

SHARED = ("tokens", "members", "predictions", "soft targets")
"""Stages that a further student reuses."""


@dataclass(frozen=True)
class Timed:
    """A run, and how fast its parts are."""

    case: Case
    rates: Rates

    @cached_property
    def outlook(self) -> Outlook:
        """The outlook of the run by itself."""
        return outlook(self.case, self.rates)

    def own_stages(self, name: str) -> list[PlannedStage]:
        """Its stages as those of the further student `name`: without what it reuses."""
        stages = [stage for stage in self.outlook.stages if stage.name not in SHARED]
        return [replace(stage, name=f"{stage.name}-{name}") for stage in stages]


@dataclass(frozen=True)
class Runs:
    """All that one command runs, in each of its repetitions: the first run, and those of the further students."""

    first: Timed
    students: Mapping[str, Timed] = field(default_factory=dict)

    def changed(self, change: Callable[[Case], Case | None]) -> Runs | None:
        """The same with a change of every run, planned anew; None where one of them does not allow it.

        Raises: `RequestError` where the cluster cannot do it.
        """
        found = {name: change(each.case) for name, each in {"": self.first, **self.students}.items()}
        changed = {name: case for name, case in found.items() if case is not None}
        if len(changed) < len(found):
            return None
        cases = {name: replace(case, plan=plan(case.config, case.facts)) for name, case in changed.items()}
        students = {name: Timed(cases[name], each.rates) for name, each in self.students.items()}
        return Runs(Timed(cases[""], self.first.rates), students)


def whole(runs: Runs) -> Outlook:
    """The outlook of all runs, with the stages that each further student does not reuse.

    A further student, and the run beside its first generation, has what it reuses in its own folder: as hard links on a
    disk, as copies in an object store.
    """
    config = runs.first.case.config
    run = runs.first.outlook
    stages, seconds = list(run.stages), run.seconds
    has_links = storage.is_local(config.storage)  # an object store has none
    for name, student in runs.students.items():
        shared = _same_baseline(student.case.config.student, config.student)
        own = [stage for stage in student.own_stages(name) if not (shared and stage.name == f"baseline-{name}")]
        stages += own
        if not has_links:
            stages.append(_copies(name, student.outlook.stored - sum(stage.stored for stage in own)))
        seconds += sum(stage.seconds for stage in own)
    if config.generations > 1:
        if not has_links:  # the run itself has what the first generation computes
            stages.append(_copies("generation-1", run.stored))
        later = _later_generation(runs.first)
        stages.append(_repeated("generation", later.stages, later.seconds, config.generations - 1))
        seconds += stages[-1].seconds
    if config.seeds > 1:
        stages.append(_repeated("seed", stages, seconds, config.seeds - 1))
        seconds += stages[-1].seconds
    spent = config.report.price((each.core_hours, each.gpu_hours) for each in stages)
    return replace(run, stages=tuple(stages), seconds=seconds, price=spent)


def _copies(name: str, stored: int) -> PlannedStage:
    """What a run keeps of another run's artifacts. name: of the run. stored: bytes."""
    return PlannedStage(name=f"copies-{name}", where="the storage", seconds=0.0, stored=stored)


def _same_baseline(one: StudentSpec, other: StudentSpec) -> bool:
    """Whether both students have one baseline, which is then trained once."""
    same = ("model", "initial", "seed", "num_workers", "baseline_recipe")
    return all(getattr(one, key) == getattr(other, key) for key in same)


def _later_generation(first: Timed) -> Outlook:
    """The outlook of a generation whose only teacher is the student of the one before."""
    case, rates = first.case, first.rates
    config = case.config.of_generations()[1]
    student = case.profiles["student.model"]
    profiles = dict.fromkeys((f"{key}.model" for key in (*config.ensemble.keys(), "student")), student)
    later = replace(case, config=config, plan=plan(config, case.facts), profiles=profiles)
    forward_s = rates.baseline.example_s / BACKWARD
    return outlook(later, replace(rates, tokens_s=0.0, members=(None,), forward_s=forward_s))


def _repeated(what: str, stages: Sequence[PlannedStage], seconds: float, times: int) -> PlannedStage:
    """Several stages so many times more, as one. seconds: of all of them once; some may overlap."""
    return PlannedStage(
        name=f"{times} more {what}{'s' * (times > 1)}",
        where="as above",
        seconds=times * seconds,
        core_hours=times * sum(each.core_hours for each in stages),
        gpu_hours=times * sum(each.gpu_hours for each in stages),
        moved=times * sum(each.moved for each in stages),
        stored=times * sum(each.stored for each in stages),
    )
