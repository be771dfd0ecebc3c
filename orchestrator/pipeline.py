"""The whole story of a run: members, baseline, soft targets, student, evaluation, report.

Each stage takes what the ones before made, and skips what an earlier run of the same configuration had completed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.cluster import connection
from orchestrator.cluster.heartbeat import Heartbeat
from orchestrator.config.run_config import RunConfig
from orchestrator.export import student_model
from orchestrator.observers import tracking_record
from orchestrator.observers.events import ReportReady, SystemAdded
from orchestrator.observers.opened import observers
from orchestrator.observers.terminal import Screen
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.plan import plan as planned
from orchestrator.reporting import report as reports
from orchestrator.reporting.report import Bound, Report, Spent
from orchestrator.run_folder import lock, owned
from orchestrator.run_folder.lock import Lock
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import preflight, training
from orchestrator.stages.context import Context
from orchestrator.stages.evaluation import compare_systems, measure_ensemble
from orchestrator.stages.fitters import StudentJob
from orchestrator.stages.soft_targets import SoftTargetPass, soft_targets
from orchestrator.stages.trained import Trained
from workers import storage, telemetry
from workers.artifacts.catalogue import Catalogue
from workers.errors import RequestError, RunError
from workers.inference.teacher import Member
from workers.models.torch_module import seed_of
from workers.redact import redacted

logger = logging.getLogger(__name__)

EXAMPLES = 2
"""Of the test split, that go to MLflow with the student."""


def run(config: RunConfig, *, fresh: bool = False, verbose: bool = False, screen: Screen | None = None) -> Report:
    """Distil the ensemble that `config` describes into its student, and compare everything.

    fresh: start over instead of reusing what is complete. verbose: let Ray's own log lines through. screen: where
    progress is shown (default: nowhere).

    Raises: `RequestError` before anything is started or written where the request is wrong; `RunError` later.
    """
    screen = screen or Screen(quiet=True)
    lock.check_free(config.folder)
    owned.check(config, fresh=fresh)
    dataset = preflight.check(config, screen.wait_for)
    config = preflight.settled(config, dataset)
    with connection.connect(config.ensemble.start_timeout_s, verbose=verbose, wait_for=screen.wait_for) as machines:
        telemetry.label(config.name)
        plan = planned(config, Facts(DataFacts.of(dataset), machines))
        dataset = preflight.check_placed(config, dataset, plan.teachers.size)
        preflight.check_shared(config.storage)
        screen.wait_for(f"the run's folder and its tracker, {redacted(config.tracking.uri)}")
        record = tracking_record.of(config, dataset)
        with (
            Lock(config.folder),
            observers(config, screen, record, fresh=fresh) as (events, page),
            Heartbeat(events.epoch, events.note) as heartbeat,
        ):
            owned.mark(config.folder)
            owned.sweep(config.folder)
            reports.remove(config.folder)
            storage.write_text(RunFolder(config.folder).config, redacted(config.to_yaml()))
            tracking_record.write(record, config.folder)
            try:
                data = connection.share(dataset)
                return _stages(
                    Context(
                        config=config,
                        dataset=dataset,
                        data=data,
                        machines=machines,
                        plan=plan,
                        events=events,
                        heartbeat=heartbeat,
                        artifacts=Catalogue(config.storage, config.name, alone=fresh),
                        page=page,
                    )
                )
            except RequestError as error:  # a file gone or a node without it: no longer the request's fault
                raise RunError(str(error)) from error


def _stages(run: Context) -> Report:
    config, events = run.config, run.events
    for note in run.dataset.notes:
        events.note(note)
    members = _members(run)
    teachers = [m.member for m in members]
    with events.stage("predictions") as stage:  # now, while there are machines for members
        ensemble = measure_ensemble(run, teachers)
        stage.reused = ensemble.reused
    baseline = _student("baseline", run)
    known = sum(member.reused for member in members) if config.ensemble.training is not None else 0
    with soft_targets(run, teachers, ensemble.weights, known=known) as made:
        student = _student("student", run, made)
    with events.stage("evaluation"):
        systems = compare_systems(run, teachers, ensemble.measured, baseline.member, student.member)
    accuracy = {system.role: system.test.accuracy for system in systems}
    cost = _cost(run, members, baseline, student, made)
    report = Report(
        name=config.name,
        folder=redacted(config.folder),
        page=run.page,
        accuracy_name=config.report.accuracy,
        classes=run.dataset.classes,
        systems=systems,
        gain_transferred=reports.gain_transferred(accuracy["baseline"], accuracy["ensemble"], accuracy["student"]),
        curve=ensemble.curve,
        soft_targets=made.summary(),
        stages=events.stages,
        bound_by=_bound_by(student, made),
        cost=cost,
        price=_price(config, cost),
        lost_members=made.complete().missing_members(),
        paper=config.report.paper,
    )
    with events.stage("the student's model"):
        _keep_student(run, student)
    reports.write(report, config.folder)
    with events.stage("tracker"):
        histories = {system.member.name: system.history for system in (*members, baseline, student)}
        events.emit(ReportReady(report, histories, config.folder))
        events.drain()
    return report


def _keep_student(run: Context, student: Trained) -> None:
    """Write the student's model for MLflow into the run's folder, or say why there is none."""
    if run.config.tracking.registered_model is False:
        return
    examples = np.asarray(run.dataset.test.x[:EXAMPLES])
    place = RunFolder(run.config.folder).shown("student")
    problem = student_model.write(student.member, examples, run.dataset.classes, place)
    if problem is not None:
        logger.warning("MLflow does not get the student as a model: %s. The run goes on without it.", problem)


def _members(run: Context) -> list[Trained]:
    """Trained here, or loaded from the checkpoints that the configuration names."""
    spec, events = run.config.ensemble, run.events
    groups = spec.of_each(run.plan.teachers.size)
    names = [f"member-{k}" for k in range(len(groups))]
    for name in names:
        events.emit(SystemAdded(name, "member"))
    events.emit(SystemAdded("ensemble", "ensemble"))
    members = {k: Trained(Member(names[k], groups[k].model, uri), [], reused=True) for k, uri in spec.given().items()}
    epochs = {k: group.training.epochs for k, group in enumerate(groups) if group.training is not None}
    if epochs:
        of_name = {names[k]: number for k, number in epochs.items()}
        run.heartbeat.expect(of_name)
        with events.stage("members", list(of_name), -(-sum(epochs.values()) // len(epochs))) as stage:
            found = training.train_members(run, {k: groups[k] for k in epochs})
            stage.reused = all(member.reused for member in found.values())
        for trained in found.values():
            events.trained(trained.member.name, trained.history, trained.reused)
        members |= found
    return [member for _, member in sorted(members.items())]


def _student(role: str, run: Context, made: SoftTargetPass | None = None) -> Trained:
    """The student on soft targets; without them, the hard-label baseline of its architecture."""
    spec, events = run.config.student, run.events
    recipe = spec.training if made is not None else spec.baseline_training or spec.training
    job = StudentJob(role, spec.model, recipe, seed_of(run.config.seed, "student"))
    if made is not None:
        job = replace(
            job,
            loss=run.config.distillation,
            store=made.store(),
            store_key=made.resume_key(),
            store_content=made.content,
        )
    events.emit(SystemAdded(role, role))
    with events.stage(role, [role], recipe.epochs) as stage:
        trained = training.train_student(run, job)
        stage.reused = trained.reused
    events.trained(role, trained.history, trained.reused)
    return trained


def _cost(
    run: Context, members: Sequence[Trained], baseline: Trained, student: Trained, made: SoftTargetPass
) -> dict[str, Spent]:
    """What everything cost that the student follows from, and its baseline."""
    teachers, workers = run.plan.teachers, run.plan.student

    def spent(seconds: float, cores: float, gpus: float) -> Spent:
        return Spent(core_hours=seconds * cores / 3600, gpu_hours=seconds * gpus / 3600)

    def trained(systems: Sequence[Trained]) -> float:
        return sum(epoch.seconds for system in systems for epoch in system.history)

    return {
        "members": spent(trained(members), teachers.num_cpus, teachers.num_gpus),
        "soft targets": spent(
            made.complete().seconds, teachers.actors * teachers.num_cpus, teachers.actors * teachers.num_gpus
        ),
        "baseline": spent(trained([baseline]), workers.cores, workers.gpus),
        "student": spent(trained([student]), workers.cores, workers.gpus),
    }


def _price(config: RunConfig, cost: Mapping[str, Spent]) -> float | None:
    core, gpu = config.report.core_hour_price, config.report.gpu_hour_price
    return sum(s.core_hours * core + s.gpu_hours * gpu for s in cost.values()) if core or gpu else None


def _bound_by(student: Trained, made: SoftTargetPass) -> Bound:
    """What the way from teachers to student mostly waited for."""
    trained_s = sum(epoch.seconds - epoch.waited_s for epoch in student.history)
    return "student" if trained_s > made.complete().seconds else made.bound_by
