"""The sequence of a run: pre-flight checks, plan, and then `STAGES`: members, soft targets, student, comparison.

Each stage takes the results of others, and reuses artifacts that an earlier run completed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.cluster import connection
from orchestrator.cluster.heartbeat import Heartbeat
from orchestrator.cluster.resources import Machines, Placement
from orchestrator.config.run_config import RunConfig
from orchestrator.export import student_model
from orchestrator.observers import tracking_record
from orchestrator.observers.events import ReportReady
from orchestrator.observers.opened import observers, untracked
from orchestrator.observers.terminal import Screen
from orchestrator.plan import kept
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.kept import KeptPlan
from orchestrator.plan.plan import plan as planned
from orchestrator.reporting import files, several, statistics, sums
from orchestrator.reporting import report as reports
from orchestrator.reporting.report import SPECIALISTS, GenerationFigures, MemberWorth, Planned, Report, System
from orchestrator.run_folder import lock, owned
from orchestrator.run_folder.lock import Lock
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import costs, drawings, members, places, preflight, students
from orchestrator.stages.appendix import appendix
from orchestrator.stages.context import Context
from orchestrator.stages.evaluation import (
    Compared,
    MeasuredEnsemble,
    Worth,
    compare_systems,
    measure_ensemble,
    measure_held_out,
)
from orchestrator.stages.soft_targets import SoftTargetPass, soft_targets
from orchestrator.stages.stage import Results, Stage, execute
from orchestrator.stages.tokens import Tokenizing, tokenized, without_texts
from orchestrator.stages.trained import Trained
from workers import storage, telemetry
from workers.artifacts.catalogue import Catalogue
from workers.data.dataset import Dataset
from workers.errors import RequestError, RunError
from workers.evaluation.bootstrap import Interval
from workers.evaluation.tasks import Totals
from workers.inference.teacher import Member
from workers.models import predictor
from workers.redact import redacted
from workers.specs.base import FactorySpec
from workers.specs.objective import ScheduleSpec
from workers.specs.training import TrainingSpec

logger = logging.getLogger(__name__)

EXAMPLES = 2
"""Number of test examples that go to MLflow with the student."""


@dataclass(frozen=True)
class Options:
    """verbose: show Ray's log lines. repetitions: reports of other seeds. students: reports of further students, by
    name. generations: of students that taught each other. command: what the user typed. note: why the ensemble has its
    size.

    anew: of a command that recomputes complete artifacts, the names of its runs so far, to which `executed` adds. Each
    run clears its folder as it begins, and reuses artifacts of these runs alone, so that the runs of one command share
    what they compute. None: artifacts of all runs are reused.

    sampled: the part of the data that the stages get, from the data and the machines. tracked: whether MLflow gets the
    run.
    """

    verbose: bool
    screen: Screen
    anew: set[str] | None = None
    repetitions: Sequence[Report] = ()
    students: Mapping[str, Report] = field(default_factory=dict)
    generations: Sequence[GenerationFigures] = ()
    sampled: Callable[[Dataset, Machines], Dataset] = lambda dataset, machines: dataset
    tracked: bool = True
    command: str = ""
    note: str = ""

    def starts_over(self, run: str) -> bool:
        """Whether the run of this name has yet to clear its folder."""
        return self.anew is not None and run not in self.anew


def executed(config: RunConfig, stages: Sequence[Stage[Any]], options: Options) -> Results:
    """Check a configuration, plan it, and execute stages in its folder.

    Raises: `RequestError` for an invalid request, before the run starts or writes anything; `RunError` later.
    """
    screen, fresh = options.screen, options.starts_over(config.name)
    lock.check_free(config.folder)
    owned.check(config, fresh=fresh)
    dataset = preflight.check(config, screen.wait_for)
    config = preflight.settled(config, dataset)
    with connection.connect(
        config.ensemble.start_timeout_s, verbose=options.verbose, wait_for=screen.wait_for
    ) as machines:
        telemetry.label(config.name)
        dataset = options.sampled(dataset, machines)
        plan = planned(config, Facts(DataFacts.of(dataset), machines, preflight.beside_bytes(config)))
        dataset = preflight.check_placed(config, dataset, plan.teachers.size)
        places.check_shared(config.storage)
        screen.wait_for(f"the run's folder and its tracker, {redacted(config.tracking.uri)}")
        record = tracking_record.of(config, dataset)
        opened = (
            observers(config, screen, record, fresh=fresh)
            if options.tracked
            else untracked(config, screen, fresh=fresh)
        )
        with (
            Lock(config.folder),
            opened as (events, page),
            Heartbeat(events.epoch, events.note) as heartbeat,
        ):
            owned.mark(config.folder)
            reports.remove(config.folder)
            storage.write_text(RunFolder(config.folder).config, redacted(config.to_yaml()))
            tracking_record.write(record, config.folder)
            try:
                catalogue = _catalogue(config, options)
                tokenizing = Tokenizing(
                    config=config, machines=machines, events=events, heartbeat=heartbeat, artifacts=catalogue
                )
                given, dataset = dataset.test.x, without_texts(config, tokenized(tokenizing, dataset))
                data = connection.share(dataset)
                context = Context(
                    config=config,
                    dataset=dataset,
                    data=data,
                    machines=machines,
                    plan=plan,
                    events=events,
                    heartbeat=heartbeat,
                    artifacts=catalogue,
                    page=page,
                    repetitions=options.repetitions,
                    students=options.students,
                    generations=options.generations,
                    test_inputs=given,
                    command=options.command,
                    ensemble_note=options.note,
                )
                for note in (*filter(None, [options.note]), *dataset.notes):
                    events.note(note)
                return execute(stages, context)
            except RequestError as error:  # validated before, so a file was lost or a node lacks it
                raise RunError(str(error)) from error


def _catalogue(config: RunConfig, options: Options) -> Catalogue:
    """The artifacts that a run may reuse, once it has cleared its folder where it starts over."""
    if options.anew is not None:
        options.anew.add(config.name)
    return Catalogue(config.storage, config.name, among=options.anew)


def _held_out(run: Context, given: Results) -> Totals:
    with run.events.stage("predictions"):
        return measure_held_out(run, _teachers(given))


def _measure_ensemble(run: Context, given: Results) -> MeasuredEnsemble:
    """Measure members and ensemble, before the student takes the machines."""
    with run.events.stage("predictions") as stage:
        ensemble = measure_ensemble(run, _teachers(given))
        stage.reused = ensemble.reused
    return ensemble


def _soft_targets(run: Context, given: Results) -> AbstractContextManager[SoftTargetPass]:
    known = members.known(given[MEMBERS])
    return soft_targets(run, _teachers(given), given[PREDICTIONS].weights, known=known)


def _student(run: Context, given: Results) -> Trained:
    return students.student(run, given[SOFT_TARGETS], _teachers(given))


def _compare(run: Context, given: Results) -> Compared:
    with run.events.stage("evaluation"):
        return compare_systems(run, _teachers(given), given[PREDICTIONS], given[BASELINE].member, given[STUDENT].member)


def _report(run: Context, given: Results) -> Report:
    """Write the student's model, then the report, then send the figures to the tracker."""
    config, events, made, student = run.config, run.events, given[SOFT_TARGETS], given[STUDENT]
    estimates = given[EVALUATION].estimates
    systems = _validated(config, given[EVALUATION].systems, {"baseline": given[BASELINE], "student": student})
    accuracy = {system.role: system.test.accuracy for system in systems}
    foreseen = kept.read(config)
    cost = costs.spent(run.plan, given[MEMBERS], given[BASELINE], student, made)
    report = Report(
        name=config.name,
        seed=config.seed,
        folder=redacted(config.folder),
        page=run.page,
        accuracy_name=config.report.accuracy or ("accuracy" if config.data.masking is None else "masked accuracy"),
        classes=run.dataset.classes,
        labels=list(run.dataset.label_names),
        systems=systems,
        gain_transferred=reports.gain_transferred(accuracy["baseline"], accuracy["ensemble"], accuracy["student"]),
        gain_transferred_interval=_bounds(estimates.gain),
        resolved=estimates.gain is not None and not estimates.gain.holds_zero,
        differences=[reports.as_difference(each) for each in estimates.differences],
        generations=list(run.generations),
        best_member=given[PREDICTIONS].best,
        curve=given[PREDICTIONS].curve,
        worth=_worth(given[PREDICTIONS], given[MEMBERS], run.plan.teachers),
        disagreement=_disagreement(given[PREDICTIONS].worth),
        soft_targets=made.summary().model_copy(update=_recipe(config) | _planned_pass(foreseen)),
        stages=[_beside_plan(stage, foreseen) for stage in events.stages],
        bound_by=costs.bound_by(student, made),
        cost=cost,
        price=costs.price(config, cost),
        notes=[*filter(None, [run.ensemble_note, given[EVALUATION].note])],
        lost_members=made.complete().missing_members(),
        paper=config.report.paper,
        latency_ms=config.report.latency_ms,
        figures=drawings.drawn(run, student.member),
        **appendix(run, given[EVALUATION].agreement, given[BASELINE], student),
    )
    if run.students:
        report = several.merged(report, next(iter(config.students or {})), run.students)
    if run.repetitions:
        reports_of_all = sorted([report, *run.repetitions], key=lambda each: each.seed)
        report = report.model_copy(update={"seeds": [reports.of_seed(each) for each in reports_of_all]})
    with events.stage("the student's model"):
        _keep_student(run, student)
    of_blocks = {name: measured.sums.of_blocks for name, measured in given[EVALUATION].measured.items()}
    sums.write(config.folder, of_blocks, run.dataset.test_digest)
    files.write(report, config.folder)
    with events.stage("tracker"):
        trained = (*given[MEMBERS], given[BASELINE], *student.stages)
        events.emit(ReportReady(report, {each.member.name: each.history for each in trained}, config.folder))
        events.drain()
    return report


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
            accuracy_interval=_bounds(each.with_it_interval),
            nll=each.nll,
            ece=each.ece,
            adds=each.adds,
            adds_interval=_bounds(each.adds_interval),
            lost=each.lost,
            lost_interval=_bounds(each.lost_interval),
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


def _bounds(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else interval.bounds


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
        "baseline": config.student.baseline_training or config.student.training,
        "student": config.training_stages[-1].training,
    }
    kept_: dict[str, float] = {}
    for name, each in trained.items():
        accuracies = [epoch.validation_accuracy for epoch in each.history]
        recipe = recipes[name]
        is_best = isinstance(recipe, TrainingSpec) and recipe.keep == "best"
        kept_[name] = max(accuracies) if is_best else accuracies[-1]
    return [system.model_copy(update={"validation_accuracy": kept_.get(system.name)}) for system in systems]


def _planned_pass(foreseen: KeptPlan | None) -> dict[str, Planned]:
    if foreseen is None:
        return {}
    return {"planned": Planned(seconds=foreseen.pass_seconds, bytes=foreseen.bytes)}


def _beside_plan(stage: reports.Stage, foreseen: KeptPlan | None) -> reports.Stage:
    """A stage with the seconds that a plan foresaw."""
    if foreseen is None or stage.name not in foreseen.stages:
        return stage
    return stage.model_copy(update={"planned": Planned(seconds=foreseen.stages[stage.name])})


def _keep_student(run: Context, student: Trained) -> None:
    """Write the student's model for MLflow into the run's folder, or log the reason for its absence."""
    if run.config.tracking.registered_model is False:
        return
    x = predictor.collator(student.member.model).single(run.dataset.test.x)
    if x is None:
        logger.warning("MLflow does not get the student as a model: it takes several columns, or rows of any length.")
        return
    examples = np.asarray(x[:EXAMPLES])
    place = RunFolder(run.config.folder).shown("student")
    problem = student_model.write(student.member, examples, run.dataset.classes, place)
    if problem is not None:
        logger.warning("MLflow does not get the student as a model: %s. The run goes on without it.", problem)


def _teachers(given: Results) -> list[Member]:
    return [each.member for each in given[MEMBERS]]


MEMBERS = Stage("members", lambda run, given: members.members(run))
HELD_OUT = Stage("predictions", _held_out, (MEMBERS,))
"""Of runs that are about members alone."""
PREDICTIONS = Stage("predictions", _measure_ensemble, (MEMBERS,))
BASELINE = Stage("baseline", lambda run, given: students.baseline(run, _teachers(given)), (MEMBERS,))
SOFT_TARGETS: Stage[SoftTargetPass] = Stage("soft targets", _soft_targets, (MEMBERS, PREDICTIONS))
STUDENT = Stage("student", _student, (MEMBERS, SOFT_TARGETS))
EVALUATION = Stage("evaluation", _compare, (MEMBERS, PREDICTIONS, BASELINE, STUDENT))
REPORT = Stage("report", _report, (MEMBERS, PREDICTIONS, BASELINE, SOFT_TARGETS, STUDENT, EVALUATION))
STAGES = (MEMBERS, PREDICTIONS, BASELINE, SOFT_TARGETS, STUDENT, EVALUATION, REPORT)
