"""Evaluates every system on the same held-out data: predictions and metrics in tasks, whose sums the driver adds.

Predictions are log-probabilities at T = 1, [P, K] float32. The ensemble's predictions are the members' mean by the rule
of the soft targets, in float64 (`workers.evaluation.mixture`). The members are evaluated while the run holds machines
for them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.cluster.resources import Placement
from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.config.schema import CORRECTED, FurtherSystem
from orchestrator.reporting import statistics
from orchestrator.reporting.report import CurvePoint, Role, System
from orchestrator.reporting.statistics import Estimates
from orchestrator.stages.combination import rule_of
from orchestrator.stages.context import Context
from orchestrator.stages.corrected import Bias, bias_note, corrected
from orchestrator.stages.predictions import Predicted, predict, result_of, results_of
from orchestrator.stages.systems import Measured, row_of, special_names
from workers import ensemble as ensembles
from workers.data.dataset import Split
from workers.evaluation import mixture
from workers.evaluation import tasks as jobs
from workers.evaluation.agreement import AgreementSums
from workers.evaluation.bootstrap import Interval, bounds_of
from workers.evaluation.confusable import Groups
from workers.evaluation.custom_metrics import Metric
from workers.evaluation.metrics import EXAMPLES, Inference, LogProbabilities, Sums
from workers.evaluation.tasks import ENSEMBLE, Comparing, CustomMetrics, Measurement, Measuring, Subject
from workers.evaluation.worth import WorthSums
from workers.inference.teacher import Member
from workers.specs.models import special_of
from workers.specs.training import AnyTraining

MOST_NLL = 700.0
"""The exp of a larger number is no float."""
RANGE_BYTES = 2**29
"""Size of the predictions of all systems together that one task holds."""


@dataclass(frozen=True)
class Worth:
    """What each member is worth. order: of the members, chosen on the validation split."""

    order: Sequence[int]
    sums: WorthSums


@dataclass(frozen=True, kw_only=True)
class MeasuredEnsemble:
    """Evaluation of the members and their ensemble.

    weights: of the members, equal where a rule gives weights per example. The test metrics of each member and of the
    ensemble are by name; the curve has the metrics of ensembles of 1, 2, ... members. best: the member that is best in
    validation accuracy. worth: None for a single member, or where predictions are too large to be kept. reused: all
    predictions were cached. compared: what measured the ensemble, with the records of the predictions.
    """

    weights: list[float]
    best: str
    measured: dict[str, Measured]
    curve: list[CurvePoint]
    worth: Worth | None
    reused: bool
    compared: Measuring


def measure_ensemble(run: Context, members: Sequence[Member]) -> MeasuredEnsemble:
    """Compute the configured member weights, and measure the members and their mean on the test split."""
    asked = _subjects(run, members)
    predicted = predict(run, asked, "test", run.plan.teachers)
    valid = predict(run, asked, "validation", run.plan.teachers)
    spec = run.config.ensemble
    rule = rule_of(spec, members)
    if spec.weights == "uniform" or rule is not None:
        weights = ensembles.normalised([1.0] * len(members))
    elif spec.weights == "validation":
        weights = mixture.fit_weights(np.stack(_of_validation_labels(run, asked, valid)))
    else:
        assert isinstance(spec.weights, tuple)
        weights = ensembles.normalised(spec.weights)
    threads = run.plan.teachers.threads
    held_out = Measuring(asked, valid.records, threads, split="validation")
    best = _best(_measure(run, held_out, run.plan.teachers).sums)
    job = Measuring(
        asked,
        predicted.records,
        threads,
        rule or weights,
        spec.combine,
        order=_order(run, replace(held_out, weights=rule, combine=spec.combine)),
    )
    found = _measure(run, job, run.plan.teachers)
    of_each = _with_metrics(run, job, found.sums, run.plan.teachers)
    reused = predicted.reused and valid.reused and not run.config.evaluation.metrics
    worth = None if found.worth is None else Worth(job.order, found.worth)
    return MeasuredEnsemble(
        weights=weights, best=best, measured=of_each, curve=_curve(found), worth=worth, reused=reused, compared=job
    )


def _curve(found: jobs.Totals) -> list[CurvePoint]:
    """The metrics of ensembles of 1, 2, ... members, with the intervals of their accuracies."""
    assert found.curve is not None
    examples = found.sums[ENSEMBLE].of_blocks[:, EXAMPLES]
    intervals = statistics.curve(examples, found.curve.right_of_blocks)
    return [
        CurvePoint(**vars(point), accuracy_interval=bounds_of(interval))
        for point, interval in zip(found.curve.points, intervals, strict=True)
    ]


def _of_validation_labels(run: Context, asked: Sequence[Subject], valid: Predicted) -> list[LogProbabilities]:
    """Each member's log-probabilities of the validation labels, [P]: of its kept predictions, one file at a time.

    Of predictions that are too large to be kept, the entries of the labels alone are predicted and kept.
    """
    if not valid.records:
        of_labels = predict(run, asked, "validation", run.plan.teachers, of_labels=True)
        return [jobs.read_kept(record) for record in of_labels.records.values()]
    labels = run.dataset.validation.y
    return [jobs.read_kept(record)[np.arange(len(labels)), labels] for record in valid.records.values()]


def _order(run: Context, held_out: Measuring) -> list[int]:
    """The order of members by their worth; empty for a single one, or where predictions are too large to be kept."""
    if len(held_out.kept) < len(held_out.systems) or len(held_out.systems) == 1:
        return []
    found: list[int] = result_of(run, "ordering members", jobs.order_members, held_out, run.plan.teachers)
    return found


def _best(sums: Mapping[str, Sums]) -> str:
    """The system of the highest accuracy; of several the most likely."""
    return max(sums, key=lambda name: (sums[name].accuracy, -sums[name].mean_nll))


def measure_held_out(run: Context, members: Sequence[Member]) -> jobs.Totals:
    """The sums of members of equal weights on the validation split: of each, and of the first 1, 2, ... together."""
    weights, order = [1.0] * len(members), range(len(members))
    job = replace(_held_out(run, members), weights=weights, combine=run.config.ensemble.combine, order=order)
    return _measure(run, job, run.plan.teachers)


def confusable_groups(run: Context, members: Sequence[Member], number: int, seed: int) -> Groups:
    """So many groups of classes that the mean of these members confuses on the validation split."""
    job = jobs.Grouping(_held_out(run, members), number, seed)
    found: Groups = result_of(run, "grouping classes", jobs.find_groups, job, run.plan.teachers)
    return found


def _held_out(run: Context, members: Sequence[Member]) -> Measuring:
    """These members on the validation split, with the records of their predictions."""
    asked, place = _subjects(run, members), run.plan.teachers
    kept = predict(run, asked, "validation", place).records
    return Measuring(asked, kept, place.threads, split="validation")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Every system on the test split, and how sure the differences are.

    agreement: of ensemble and student; None where predictions are too large to be kept. reused: all predictions were
    cached, and of the systems only the latency was measured anew.
    """

    systems: list[System]
    measured: Mapping[str, Measured]
    estimates: Estimates
    agreement: AgreementSums | None
    reused: bool
    note: str = ""
    """On the bias of `student-corrected`; empty without one."""


def compare_systems(
    run: Context, members: Sequence[Member], ensemble: MeasuredEnsemble, baseline: Member, student: Member
) -> Compared:
    """Each system's test metrics, size and latency, and the intervals of metrics and differences."""
    place = run.plan.student.alone
    asked = _others(run, baseline, student)
    predicted = predict(run, asked, "test", place)
    bias = corrected(run, asked[1], predicted.records, place)
    others = asked if bias is None else [*asked, (replace(student, name=CORRECTED), asked[1][1])]
    job = Measuring(others, predicted.records, place.threads)
    measured = {**ensemble.measured, **_with_metrics(run, job, _measure(run, job, place).sums, place)}
    sizes, roles = _sizes(run, members, asked, place), _roles(run, members, bias)
    pairs = [(ENSEMBLE, ensemble.best)] if len(members) > 1 else []
    pairs += [(ENSEMBLE, "baseline"), ("student", "baseline"), ("student", ENSEMBLE)]
    estimates = statistics.estimate({name: measured[name].sums.of_blocks for name in roles}, pairs)
    special = {member.name: special_names(run, special_of(member.model)) for member in members}
    systems = [
        row_of(
            name,
            role,
            _with_intervals(run, measured[name], estimates.intervals[name]),
            sizes[name],
            special.get(name, []),
        )
        for name, role in roles.items()
    ]
    return Compared(
        systems=systems,
        measured=measured,
        estimates=estimates,
        agreement=_agreement(run, ensemble.compared, job, place),
        reused=predicted.reused and (bias is None or bias.reused) and not run.config.evaluation.metrics,
        note="" if bias is None else bias_note(run, bias.value),
    )


def _others(run: Context, baseline: Member, student: Member) -> list[Subject]:
    """Baseline and student, and the systems of `evaluation.systems`."""
    further, place = run.config.evaluation.systems, run.plan.student.alone
    asked = [(baseline, _of_student(run, "baseline")), (student, _of_student(run, "student"))]
    return asked + [
        (Member(name, each.model, each.weights), _inference(run, each, place)) for name, each in further.items()
    ]


def _sizes(
    run: Context, members: Sequence[Member], others: Sequence[Subject], place: Placement
) -> dict[str, jobs.Described]:
    """The size and the latency of each system, by name. All are measured in one task, alone, since it measures time."""
    repeats, combine = run.config.evaluation.latency_repeats, run.config.ensemble.combine
    job = Measurement(_subjects(run, members), others, combine, repeats, place.device)
    found = result_of(run, "measuring latency", jobs.describe, job, place, name="of all")
    return {**found, CORRECTED: found["student"]}  # a bias for some classes costs nothing


def _roles(run: Context, members: Sequence[Member], bias: Bias | None) -> dict[str, Role]:
    """The role of each system by its name, in the order of the report."""
    further = [] if bias is None else [CORRECTED]
    roles: dict[str, Role] = {m.name: "member" for m in members}
    roles |= {ENSEMBLE: "ensemble", "baseline": "baseline", "student": "student"}
    roles |= dict.fromkeys([*further, *run.config.evaluation.systems], "further")
    return roles


def _agreement(run: Context, ensemble: Measuring, others: Measuring, place: Placement) -> AgreementSums | None:
    """Compare the ensemble's and the student's answers, from kept predictions alone."""
    student = replace(others, systems=[each for each in others.systems if each[0].name == "student"])
    if any(member.name not in job.kept for job in (ensemble, student) for member, _ in job.systems):
        return None
    asked, systems = Comparing(ensemble, student, run.config.report.examples), len(ensemble.systems) + 1
    split = ensemble.split
    found: AgreementSums = _summed(run, "comparing answers", jobs.agreement, asked, place, split=split, systems=systems)
    return found


def _inference(run: Context, spec: EnsembleSpec | AnyTraining | FurtherSystem, placement: Placement) -> Inference:
    """How a network with these settings computes predictions in tasks of a placement."""
    precision = run.machines.settled(spec.precision, placement.device)
    return Inference(precision, spec.micro_batch_size, placement.device)


def _of_members(run: Context) -> Inference:
    """How members compute predictions: as in the teachers' pass."""
    return _inference(run, run.config.ensemble, run.plan.teachers)


def _subjects(run: Context, members: Sequence[Member]) -> list[Subject]:
    """The members, and how they compute predictions."""
    return [(member, _of_members(run)) for member in members]


def _of_student(run: Context, role: Role) -> Inference:
    """How student and baseline compute predictions: as in their training."""
    spec = run.config.student
    trained = run.config.training_stages[-1].training
    recipe = trained if role == "student" else spec.baseline_recipe
    return _inference(run, recipe, run.plan.student.alone)


def _measure(run: Context, job: Measuring, placement: Placement) -> jobs.Totals:
    """The metrics of systems on a split."""
    systems = len(job.systems)
    found: jobs.Totals = _summed(run, "measuring", jobs.measure, job, placement, split=job.split, systems=systems)
    return found


def _summed(run: Context, doing: str, job: Any, asked: Any, placement: Placement, *, split: str, systems: int) -> Any:
    """The sum of a job's results for ranges of a split's examples, each range in a task of its own.

    asked: the first argument of the job. systems: number of systems whose predictions a task holds.
    """
    arguments = {
        f"{split} examples {each.start:,} to {each.stop:,}": (asked, each, run.data)
        for each in _ranges(run, split, systems)
    }
    first, *others = results_of(run, doing, job, arguments, placement).values()
    return sum(others, start=first)


def _ranges(run: Context, split: str, systems: int) -> list[slice]:
    """Ranges of a split's examples whose predictions by so many systems take some `RANGE_BYTES`."""
    whole: Split = getattr(run.dataset, split)
    row = 4 * run.dataset.classes * systems
    of_range = np.cumsum(whole.rows.of(np.arange(len(whole)))) * row // RANGE_BYTES
    edges = [0, *(np.flatnonzero(np.diff(of_range)) + 1).tolist(), len(whole)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _with_metrics(run: Context, job: Measuring, sums: Mapping[str, Sums], placement: Placement) -> dict[str, Measured]:
    """These sums, and the user's own metrics of the predictions."""
    metrics = run.config.evaluation.metrics
    alone = {member.name: replace(job, systems=[(member, how)], weights=None) for member, how in job.systems}
    jobs_of = alone if job.weights is None else {**alone, ENSEMBLE: job}
    arguments = {
        name: (CustomMetrics(metrics, of_it, _ranges(run, of_it.split, len(of_it.systems))), run.data)
        for name, of_it in jobs_of.items()
        if metrics
    }
    extra = results_of(run, "measuring", jobs.custom_metrics, arguments, placement)
    return {name: Measured(of_it, extra.get(name, {})) for name, of_it in sums.items()}


def _perplexity(nats: float) -> float:
    return math.exp(min(nats, MOST_NLL))


def _with_intervals(run: Context, measured: Measured, intervals: Mapping[str, Interval | None]) -> Measured:
    """With intervals of its figures, and the perplexity of a language model, exp of the mean NLL of a token."""
    if run.config.data.masking is None:
        return replace(measured, intervals=intervals)
    nll = intervals["nll"]
    value = _perplexity(measured.sums.mean_nll)
    interval = nll and Interval(_perplexity(nll.low), _perplexity(nll.high), value * nll.error)
    perplexity = Metric(value, interval)
    return replace(measured, intervals=intervals, extra={"perplexity": perplexity, **measured.extra})
