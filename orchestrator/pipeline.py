"""The stages of a run: members, predictions, baseline, soft targets, student, evaluation, report.

Each takes the results of others, and reuses artifacts that an earlier run completed. `execution` executes them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from orchestrator.reporting.report import Report
from orchestrator.stages import members, reported, students
from orchestrator.stages.context import Context
from orchestrator.stages.evaluation import (
    Compared,
    MeasuredEnsemble,
    compare_systems,
    measure_ensemble,
    measure_held_out,
)
from orchestrator.stages.reported import Outcome
from orchestrator.stages.soft_target_pass import SoftTargetPass
from orchestrator.stages.soft_targets import soft_targets
from orchestrator.stages.stage import Results, Stage
from orchestrator.stages.trained import Trained
from workers.evaluation.tasks import Totals
from workers.inference.teacher import Member


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
    """Compare all systems. The stage counts as reused although latency is measured in every run."""
    with run.events.stage("evaluation") as stage:
        student = given[STUDENT].member
        compared = compare_systems(run, _teachers(given), given[PREDICTIONS], given[BASELINE].member, student)
        stage.reused = compared.reused
    return compared


def _report(run: Context, given: Results) -> Report:
    of = Outcome(
        members=given[MEMBERS],
        ensemble=given[PREDICTIONS],
        baseline=given[BASELINE],
        made=given[SOFT_TARGETS],
        student=given[STUDENT],
        compared=given[EVALUATION],
    )
    return reported.report(run, of)


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
