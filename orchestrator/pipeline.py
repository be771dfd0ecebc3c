"""The whole story of a run: members, baseline, soft targets, student, evaluation, report.

Each stage takes what the ones before made, and skips what an earlier run of the same configuration had completed.
"""

from __future__ import annotations

from dataclasses import replace

import ray

from orchestrator import cluster, preflight, training
from orchestrator import report as reports
from orchestrator.cluster import Machines, Placement
from orchestrator.comparison import compare_systems, member_weights, predict
from orchestrator.config import RunConfig
from orchestrator.console import Screen
from orchestrator.journal import Journal
from orchestrator.lock import Lock
from orchestrator.report import Bound, Report
from orchestrator.soft_target_pass import SoftTargetPass, soft_targets
from orchestrator.training import Trained
from workers import metrics, storage
from workers.data import Dataset
from workers.errors import RequestError, RunError
from workers.models import seed_of
from workers.secrets import hidden
from workers.teacher import Member


def run(config: RunConfig, *, fresh: bool = False, verbose: bool = False, screen: Screen | None = None) -> Report:
    """Distil the ensemble that `config` describes into its student, and compare everything.

    fresh: start over instead of reusing what is complete. verbose: let Ray's own log lines through. screen: where
    progress is shown (default: nowhere).

    Raises: `RequestError` before anything is started or written where the request is wrong; `RunError` later.
    """
    dataset = preflight.check(config)
    with cluster.connect(config.ensemble.start_timeout_s, verbose=verbose) as machines:
        metrics.label(config.name)
        placement = cluster.place(config.ensemble, machines)
        cluster.check_student(config.student, machines)
        preflight.check_shared(config.storage)
        with Lock(config.folder), Journal(config, screen or Screen(quiet=True), fresh=fresh) as journal:
            storage.sweep(config.folder)
            reports.remove(config.folder)
            storage.write_text(storage.join(config.folder, "config.yaml"), hidden(config.to_yaml()))
            try:
                return _stages(config, dataset, machines, placement, journal)
            except RequestError as error:  # a file gone or a node without it: no longer the request's fault
                raise RunError(str(error)) from error


def _stages(config: RunConfig, dataset: Dataset, machines: Machines, placement: Placement, journal: Journal) -> Report:
    data = cluster.share(dataset)
    members = _members(config, dataset, data, placement, journal)
    teachers = [m.member for m in members]
    with journal.stage("predictions"):  # now, while there are machines for members
        predicted = predict(teachers, data, "test", placement)
        weights = member_weights(config.ensemble, teachers, dataset, data, placement)
    baseline = _student("baseline", config, dataset, data, machines, journal)
    with soft_targets(config, dataset, data, teachers, weights, machines, placement, journal) as made:
        student = _student("student", config, dataset, data, machines, journal, made)
    with journal.stage("evaluation"):
        systems, curve = compare_systems(
            config,
            dataset,
            data,
            teachers,
            predicted,
            weights,
            baseline.member,
            student.member,
            cluster.place_student(machines),
        )
    accuracy = {system.role: system.test.accuracy for system in systems}
    report = Report(
        name=config.name,
        folder=hidden(config.folder),
        accuracy_name=config.report.accuracy,
        systems=systems,
        gain_transferred=reports.gain_transferred(accuracy["baseline"], accuracy["ensemble"], accuracy["student"]),
        curve=curve,
        soft_targets=made.summary(),
        stages=journal.stages,
        bound_by=_bound_by(student, made),
        lost_members=made.complete().missing_members(),
        paper=config.report.paper,
    )
    journal.report(report, {t.member.name: t.history for t in (*members, baseline, student)})
    reports.write(report, config.folder)
    return report


def _members(
    config: RunConfig, dataset: Dataset, data: ray.ObjectRef[Dataset], placement: Placement, journal: Journal
) -> list[Trained]:
    """Trained here, or loaded from the checkpoints that the configuration names."""
    spec = config.ensemble
    for k in range(placement.size):
        journal.system(f"member-{k}", "member")
    journal.system("ensemble", "ensemble")
    if spec.training is None:
        return [
            Trained(Member(f"member-{k}", spec.model, uri), [], reused=True)
            for k, uri in enumerate(spec.checkpoints or ())
        ]
    names = [f"member-{k}" for k in range(placement.size)]
    with journal.stage("members", names, spec.training.epochs) as stage:
        members = training.train_members(
            config.folder,
            spec.model,
            spec.training,
            config.seed,
            dataset.digests,
            data,
            placement,
            journal.queue,
            journal,
            spec.start_timeout_s,
        )
        stage.reused = all(member.reused for member in members)
    for member in members:
        journal.trained(member)
    return members


def _student(
    role: str,
    config: RunConfig,
    dataset: Dataset,
    data: ray.ObjectRef[Dataset],
    machines: Machines,
    journal: Journal,
    made: SoftTargetPass | None = None,
) -> Trained:
    """The student on soft targets; without them, the hard-label baseline of its architecture."""
    spec = config.student
    recipe = spec.training if made is not None else spec.baseline_training or spec.training
    job = training.StudentJob(
        role,
        spec.model,
        recipe,
        seed_of(config.seed, "student"),
        spec.workers,
        augmentation=dataset.augmentation,
        run=config.name,
    )
    if made is not None:
        job = replace(
            job,
            loss=config.distillation,
            store=made.store(),
            store_mark=made.begun(),
            store_content=made.content,
        )
    journal.system(role, role)
    with journal.stage(role, [role], recipe.epochs) as stage:
        trained = training.train_with_ray(config.folder, job, dataset.digests, data, machines, journal.queue)
        stage.reused = trained.reused
    journal.trained(trained)
    return trained


def _bound_by(student: Trained, made: SoftTargetPass) -> Bound:
    """What the way from teachers to student mostly waited for."""
    trained_s = sum(epoch.seconds - epoch.waited_s for epoch in student.history)
    return "student" if trained_s > made.complete().seconds else made.bound_by
