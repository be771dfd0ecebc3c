"""The report of a run, from the results of its stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.cluster.resources import Placement
from orchestrator.config.run_config import RunConfig
from orchestrator.export import named, student_model
from orchestrator.observers.events import ReportReady
from orchestrator.plan import plan_file
from orchestrator.plan.plan_file import KeptPlan
from orchestrator.reporting import files, several, statistics, sums
from orchestrator.reporting import report as reports
from orchestrator.reporting.report import SPECIALISTS, MemberWorth, Planned, Report, System
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import costs, drawings
from orchestrator.stages.appendix import appendix
from orchestrator.stages.context import Context
from orchestrator.stages.evaluation import Compared, MeasuredEnsemble, Worth
from orchestrator.stages.soft_target_pass import SoftTargetPass
from orchestrator.stages.trained import Trained
from workers.evaluation.bootstrap import bounds_of
from workers.models import predictor
from workers.redact import redacted
from workers.specs.base import FactorySpec
from workers.specs.objective import ScheduleSpec
from workers.specs.training import TrainingSpec

logger = logging.getLogger(__name__)

EXAMPLES = 2
"""Number of test examples that go to MLflow with the student."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of all stages. made: the soft targets."""

    members: Sequence[Trained]
    ensemble: MeasuredEnsemble
    baseline: Trained
    made: SoftTargetPass
    student: Trained
    compared: Compared


def report(run: Context, of: Outcome) -> Report:
    """Write the student's model, then the report, then send the figures to the tracker."""
    events = run.events
    found = _composed(run, of)
    if run.options.students:
        found = several.merged(found, next(iter(run.config.students or {})), run.options.students)
    if run.options.repetitions:
        of_all = sorted([found, *run.options.repetitions], key=lambda each: each.seed)
        found = found.model_copy(update={"seeds": [reports.of_seed(each) for each in of_all]})
    with events.stage("the student's model"):
        _keep_student(run, of.student)
    of_blocks = {name: measured.sums.of_blocks for name, measured in of.compared.measured.items()}
    sums.write(run.config.folder, of_blocks, run.dataset.test_digest)
    files.write(found, run.config.folder)
    with events.stage("tracker"):
        trained = (*of.members, of.baseline, *of.student.stages)
        events.emit(ReportReady(found, {each.member.name: each.history for each in trained}, run.config.folder))
        events.drain()
    return found


def _composed(run: Context, of: Outcome) -> Report:
    """The report of this run alone."""
    config, estimates = run.config, of.compared.estimates
    baseline, student, made = of.baseline, of.student, of.made
    systems = _validated(config, of.compared.systems, {"baseline": baseline, "student": student})
    accuracy = {system.role: system.test.accuracy for system in systems}
    kept = plan_file.read(config)
    cost = costs.spent(run.plan, of.members, baseline, student, made)
    return Report(
        name=config.name,
        seed=config.seed,
        folder=redacted(config.folder),
        page=run.page,
        accuracy_name=config.report.accuracy or ("accuracy" if config.data.masking is None else "masked accuracy"),
        classes=run.dataset.classes,
        labels=list(run.dataset.label_names),
        systems=systems,
        gain_transferred=reports.gain_transferred(accuracy["baseline"], accuracy["ensemble"], accuracy["student"]),
        gain_transferred_interval=bounds_of(estimates.gain),
        resolved=estimates.gain is not None and not estimates.gain.holds_zero,
        differences=[reports.as_difference(each) for each in estimates.differences],
        test_groups=len(np.unique(run.dataset.groups["test"])) if "test" in run.dataset.groups else None,
        generations=list(run.options.generations),
        best_member=of.ensemble.best,
        curve=of.ensemble.curve,
        worth=_worth(of.ensemble, of.members, run.plan.teachers),
        disagreement=_disagreement(of.ensemble.worth),
        soft_targets=made.summary().model_copy(update=_recipe(config) | _planned_pass(kept)),
        stages=[_beside_plan(stage, kept) for stage in run.events.stages],
        bound_by=costs.bound_by(student, made),
        cost=cost,
        price=config.report.price((each.core_hours, each.gpu_hours) for each in cost.values()),
        notes=[*filter(None, [run.options.note, of.compared.note])],
        lost_members=made.complete().missing_members(),
        paper=config.report.paper,
        latency_ms=config.report.latency_ms,
        figures=drawings.drawn(run, student.member),
        **appendix(run, of.compared.agreement, baseline, student),
    )


def _worth(found: MeasuredEnsemble, trained: Sequence[Trained], held: Placement) -> list[MemberWorth]:
    """What each member is worth, and what its training cost. held: of a training."""
    worth = found.worth
    if worth is None:
        return []
    best, without = ([of.of_blocks for of in several] for several in (worth.sums.best, worth.sums.without))
    members = statistics.members(worth.order, best, without)
    return [
        MemberWorth(
            member=trained[k].member.name,
            accuracy=each.with_it,
            accuracy_interval=bounds_of(each.with_it_interval),
            nll=each.nll,
            ece=each.ece,
            adds=each.adds,
            adds_interval=bounds_of(each.adds_interval),
            lost=each.lost,
            lost_interval=bounds_of(each.lost_interval),
            **costs.of_member(trained[k], held),
        )
        for k, each in zip(worth.order, members, strict=True)
    ]


def _disagreement(worth: Worth | None) -> float | None:
    """The share of test rows on which two members predict other classes, the mean over pairs."""
    if worth is None:
        return None
    pairs = worth.sums.disagree[np.triu_indices(len(worth.order), 1)]
    return float(pairs.mean() / worth.sums.best[0].examples)


def _recipe(config: RunConfig) -> dict[str, str]:
    """The schedule of T and the rule of weights, in words."""
    schedule, rule = config.distillation.temperature, config.ensemble.of_examples
    found = {"rule": rule.factory if isinstance(rule, FactorySpec) else rule or ""}
    if config.ensemble.has_specialists:
        found["rule"] = SPECIALISTS
    if isinstance(schedule, ScheduleSpec) and config.distillation.is_scheduled:
        ends = [f"{value:g}" for value in (schedule.start, schedule.end) if value is not None]
        found["schedule"] = f"T from {' to '.join(ends)} ({schedule.schedule})"
    return found


def _validated(config: RunConfig, systems: Sequence[System], trained: Mapping[str, Trained]) -> list[System]:
    """The systems with the validation accuracy of the weights that their training kept."""
    recipes = {
        "baseline": config.student.baseline_recipe,
        "student": config.training_stages[-1].training,
    }
    kept_: dict[str, float] = {}
    for name, each in trained.items():
        accuracies = [epoch.validation_accuracy for epoch in each.history]
        recipe = recipes[name]
        is_best = isinstance(recipe, TrainingSpec) and recipe.keep == "best"
        kept_[name] = max(accuracies) if is_best else accuracies[-1]
    return [system.model_copy(update={"validation_accuracy": kept_.get(system.name)}) for system in systems]


def _planned_pass(kept: KeptPlan | None) -> dict[str, Planned]:
    if kept is None:
        return {}
    return {"planned": Planned(seconds=kept.pass_seconds, bytes=kept.bytes)}


def _beside_plan(stage: reports.Stage, kept: KeptPlan | None) -> reports.Stage:
    """A stage with the seconds that a plan forecast."""
    if kept is None or stage.name not in kept.stages:
        return stage
    return stage.model_copy(update={"planned": Planned(seconds=kept.stages[stage.name])})


def _keep_student(run: Context, student: Trained) -> None:
    """Write the student's model for MLflow into the run's folder, or log the reason for its absence."""
    if run.config.tracking.registered_model is False:
        return
    x = predictor.collator(student.member.model).single(run.dataset.test.x)
    if x is None:
        logger.warning("MLflow does not get the student as a model: it takes several columns, or rows of any length.")
        return
    examples, data = np.asarray(x[:EXAMPLES]), run.config.data
    how = {**named.numbers(run.dataset.encodings, examples.shape[1:]), **named.pixels(data, examples)}
    place = RunFolder(run.config.folder).shown("student")
    problem = student_model.write(student.member, examples, run.dataset.classes, place, how)
    if problem is not None:
        logger.warning("MLflow does not get the student as a model: %s. The run goes on without it.", problem)
