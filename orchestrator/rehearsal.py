"""A rehearsal: the stages of a run on a part of its data, for a few epochs, in a temporary folder, to measure rates.

It executes the run's own code where the run would execute it, so that a rate includes what an estimate leaves out:
processes that start, networks that share a machine's memory, files, checkpoints.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from orchestrator import execution
from orchestrator.cluster import connection, resources
from orchestrator.cluster.resources import Machines
from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.terminal import Screen
from orchestrator.pipeline import BASELINE, EVALUATION, MEMBERS, PREDICTIONS, SOFT_TARGETS, STUDENT
from orchestrator.plan.outlook import trained_after
from orchestrator.plan.rates import BACKWARD, Rates, TrainingRate, units
from orchestrator.plan.workload import Workload
from orchestrator.stages.context import Context, Options
from orchestrator.stages.stage import Results, Stage
from orchestrator.stages.trained import Trained
from workers import storage
from workers.data.dataset import Dataset
from workers.specs.training import AnyTraining, TrainingSpec

EPOCHS = 5
"""Epochs of each training; all but the first are timed, since that one also warms up."""
EPOCH_S = 2.0
"""About how long a rehearsed epoch takes, by the estimate from shapes."""
STEPS = 8
"""Steps that a rehearsed epoch has at least."""
PREFIX = "stillhouse-plan-"


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal measured: rates, and on which examples. students: rates with each further student."""

    rates: Rates
    students: Mapping[str, Rates]
    work: Workload


def rehearse(config: RunConfig, share: Callable[[Dataset, Machines], float], *, verbose: bool) -> Rehearsed:
    """Rehearse a run, and the runs of its further students, which reuse members and soft targets as they will.

    share: the part of the data to use, from the data and the machines; it is asked once.

    Raises: as `execution.executed`.
    """
    runs = {"": config, **config.of_students()}
    least = STEPS * max(_largest_batch(each) for each in runs.values())
    part: float | None = None

    def sampled(dataset: Dataset, machines: Machines) -> Dataset:
        nonlocal part
        part = share(dataset, machines) if part is None else part
        return dataset if part >= 1 else dataset.sampled(part, least)

    with _temporary(config) as place:
        few = {name: _shortened(each).model_copy(update={"storage": place}) for name, each in runs.items()}
        options = Options(verbose=verbose, screen=Screen(quiet=True), sampled=sampled, tracked=False)
        one = connection.connect(config.ensemble.start_timeout_s, verbose=verbose) if len(few) > 1 else nullcontext()
        with one:  # connection of several runs; a single run connects itself
            found = {name: execution.executed(each, (*REHEARSED, RATES), options)[RATES] for name, each in few.items()}
    rates, work = found.pop("")
    return Rehearsed(rates, {name: _of_student(rates, own) for name, (own, _) in found.items()}, work)


def _of_student(rates: Rates, own: Rates) -> Rates:
    """The rates of a run that reused everything but its student. own: measured there, and so wrong for the reused."""
    return replace(
        rates,
        baseline=own.baseline,
        student=own.student,
        student_units=own.student_units,
        evaluation_s=own.evaluation_s,
    )


@contextmanager
def _temporary(config: RunConfig) -> Iterator[str]:
    """A folder that every process of the run sees, removed afterwards."""
    if connection.expected() is not None:  # Ray will be of this machine alone
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            yield folder
        return
    place = storage.join(config.storage, f"{PREFIX}{uuid.uuid4().hex[:8]}")
    try:
        yield place
    finally:
        storage.remove(place)


def _shortened(config: RunConfig) -> RunConfig:
    """The same run with few epochs, without repetitions, further students and a model for MLflow."""
    ensemble, student = config.ensemble, config.student
    few: dict[str, object] = {"training": _few(ensemble.training)}
    if ensemble.members is not None:
        members = tuple(group.model_copy(update={"training": _few(group.training)}) for group in ensemble.members)
        few = {"members": members}
    stages = student.stages
    if stages is not None:
        stages = tuple(stage.model_copy(update={"training": _few(stage.training)}) for stage in stages)
    of_student = {
        "training": _few(student.training),
        "baseline_training": _few(student.baseline_training),
        "stages": stages,
    }
    return config.model_copy(
        update={
            "seeds": 1,
            "students": None,
            "evaluation": config.evaluation.model_copy(update={"corrected_classes": ()}),
            "ensemble": _smaller(config).model_copy(update=few),
            "student": student.model_copy(update=of_student),
        }
    )


def _smaller(config: RunConfig) -> EnsembleSpec:
    """The ensemble with only as many members of one kind as compute at a time, where that is known beforehand."""
    ensemble, machines = config.ensemble, connection.expected()
    if machines is None or ensemble.members is not None or ensemble.given() or ensemble.count is None:
        return ensemble
    looked_into = max(stage.loss.hidden.member for stage in config.training_stages)
    slots = resources.at_once(resources.place(ensemble, machines), machines)
    size = min(ensemble.count, max(slots, 1 + looked_into))
    return ensemble.model_copy(update={"size": size, "weights": "uniform"})


def _few(training: AnyTraining | None) -> AnyTraining | None:
    return training.model_copy(update={"epochs": EPOCHS}) if isinstance(training, TrainingSpec) else training


def _largest_batch(config: RunConfig) -> int:
    recipes = [group.training for group in config.ensemble.groups]
    recipes += [config.student.baseline_training, *(stage.training for stage in config.training_stages)]
    return max((each.batch_size or 1 for each in recipes if each is not None), default=1)


def _rates(run: Context, given: Results) -> tuple[Rates, Workload]:
    """The rates of the stages that have run, and the examples that they had."""
    work, plan, members = Workload.of(run.dataset), run.plan, given[MEMBERS]
    took = {stage.name: stage.seconds for stage in run.events.stages}
    made = given[SOFT_TARGETS].complete()
    largest = max(len(group) for group in plan.teachers.groups())
    forward_s = made.seconds / (work.transfer * work.views * largest)
    slots = min(plan.teachers.size, resources.at_once(plan.teachers, run.machines))
    trained_s = {k: sum(epoch.seconds for epoch in each.history) for k, each in enumerate(members) if each.history}
    rounds = trained_after(run.config.ensemble, dict.fromkeys(trained_s, 1.0), slots)
    predicted_s = (work.validation + work.test) * plan.teachers.size * forward_s / slots
    took_each_s = (took.get("members", 0.0) - trained_after(run.config.ensemble, trained_s, slots)) / max(1.0, rounds)
    firsts = [members[first] for first in run.config.ensemble.firsts()]
    students = zip(run.config.training_stages, given[STUDENT].stages, strict=True)
    rates = Rates(
        tokens_s=took.get("tokens", 0.0) / work.tokenized,
        members=tuple(_rate(each, took_each_s, work.train, work) if each.history else None for each in firsts),
        predictions_s=max(0.0, took["predictions"] - predicted_s),
        pass_start_s=max(0.0, took["soft targets"] - made.seconds),
        forward_s=forward_s,
        baseline=_rate_of(given[BASELINE], took["baseline"], work.lessons, work),
        student=tuple(
            _rate_of(each, took[stage.system], work.of_stages[stage.data] if stage.data else work.transfer, work)
            for stage, each in students
        ),
        student_units=units(plan),
        evaluation_s=took["evaluation"],
    )
    return rates, work


def _rate_of(trained: Trained, took_s: float, examples: int, work: Workload) -> TrainingRate:
    """The rate of a training of its own stage, which took `took_s`."""
    return _rate(trained, took_s - sum(epoch.seconds for epoch in trained.history), examples, work)


def _rate(trained: Trained, beside_s: float, examples: int, work: Workload) -> TrainingRate:
    """The mean rate of all epochs but the first. beside_s: what the training took besides its epochs."""
    timed = trained.history[1:] or trained.history
    gaps = [after.ended_s - after.seconds - before.ended_s for before, after in itertools.pairwise(trained.history)]
    between_s = max(0.0, statistics.fmean(gaps)) if gaps else 0.0
    epoch_s = statistics.fmean(epoch.seconds - epoch.waited_s for epoch in timed)
    return TrainingRate(
        start_s=max(0.0, beside_s - len(gaps) * between_s),
        example_s=epoch_s / (examples + work.validation / BACKWARD),
        between_s=between_s,
    )


REHEARSED = (MEMBERS, PREDICTIONS, BASELINE, SOFT_TARGETS, STUDENT, EVALUATION)
RATES = Stage("rates", _rates, (MEMBERS, BASELINE, SOFT_TARGETS, STUDENT))
