"""Ray tasks of the evaluation: a system's predictions, their metrics, custom metrics, the latency of all systems.

Predictions are large, and metrics are sums. So predictions stay with the task that computes them, or in the storage,
and only sums come to the driver.

Each is a `processes.task`, so its last arguments are its name and a queue in which it announces itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from workers import ensemble, processes, storage
from workers.artifacts import store
from workers.artifacts.key import Key
from workers.artifacts.kinds import PREDICTIONS
from workers.data.arrays import Float64
from workers.data.dataset import Dataset, Split
from workers.data.examples import Examples
from workers.device import device
from workers.errors import RunError
from workers.evaluation import agreement as agreement_
from workers.evaluation import bias, confusable, latency, metrics, mixture
from workers.evaluation import custom_metrics as custom_metrics_
from workers.evaluation.agreement import AgreementSums
from workers.evaluation.confusable import Groups
from workers.evaluation.custom_metrics import Metric
from workers.evaluation.latency import BATCH
from workers.evaluation.metrics import Inference, LogProbabilities, Sums
from workers.evaluation.mixture import CurveSums, MemberWeights
from workers.evaluation.worth import WorthSums, greedy, measure_worth
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor
from workers.specs.base import FactorySpec

Subject = tuple[Member, Inference]
"""A system, and how it computes its predictions."""
PREDICTED = "log_probabilities"
"""Tensor name of the cached predictions in their file."""
ENSEMBLE = "ensemble"
"""The name of all members together."""


@dataclass(frozen=True)
class Prediction:
    """A request for one system's log-probabilities on a split.

    of_labels: only the entries of the labels. kept: URI of their cache record, and their cache key.
    """

    asked: Subject
    split: str
    of_labels: bool
    threads: int
    kept: tuple[str, Key]


@processes.task
def predict(job: Prediction, data: Dataset) -> None:
    """Write the log-probabilities of one system on a split at T = 1: [P, K] float32, or with `of_labels` [P].

    They are written as safetensors beside their record, then the record, so that a record implies its file. Raises:
    `RunError` where a prediction is NaN.
    """
    torch.set_num_threads(job.threads)
    predicted = _predicted(job.asked, data, job.split, of_labels=job.of_labels)
    _keep(predicted, *job.kept)


def _keep(predicted: LogProbabilities, record: str, key: Key, **facts: Any) -> None:
    """Write predictions beside their record, then the record. Their file is named by the key, too, so that a copy in
    the folder of another run, where another system has this name, never takes the place of that system's file."""
    folder, _, name = f"{record.removesuffix('.json')}-{key.digest}.safetensors".rpartition("/")
    earlier = store.read(record, PREDICTIONS)
    content = safetensors.numpy.save({PREDICTED: predicted})
    storage.write_bytes(storage.join(folder, name), content)
    kept = store.commit(record, key, {name: storage.sha256(content)}, **facts)
    store.remove_former(record, earlier, kept)


def _predicted(
    asked: Subject, data: Dataset, split: str, examples: slice = slice(None), *, of_labels: bool = False
) -> LogProbabilities:
    """Log-probabilities of one system on some examples of a split: [P, K] float32, or with `of_labels` [P].

    Raises: `RunError` where one is NaN.
    """
    member, how = asked
    whole: Split = getattr(data, split)
    ids = np.arange(len(whole))[examples]
    labels = whole.labels_of(ids) if of_labels else None
    x = whole.x if len(ids) == len(whole) else whole.x[ids]
    found = metrics.log_probabilities(teacher.load(member), x, how, labels, predictor.collator(member.model))
    wrong = np.flatnonzero(np.isnan(found).reshape(len(found), -1).any(axis=1))
    if len(wrong):
        first = whole.rows.example_of(int(wrong[0]) + whole.rows.span(examples).start)
        raise RunError(
            f"{member.name} answers NaN for example {first} of the {split} split, and for {len(wrong)} in all; "
            "expected finite logits. Check its weights, and what its model computes of this example."
        )
    return found


def read_kept(record: str) -> LogProbabilities:
    """The predictions that the record at `record` describes. Raises: `RunError` where there is no record."""
    found = store.read(record, PREDICTIONS)
    if found is None:
        raise RunError(f"'{record}' is gone, or no record of predictions. The same command makes them again.")
    (name,) = found.files
    kept: LogProbabilities = safetensors.numpy.load(storage.read_bytes(storage.join(storage.parent(record), name)))[
        PREDICTED
    ]
    return kept


@dataclass(frozen=True)
class Measuring:
    """Systems that are measured on a split.

    kept: records of predictions, by system; the others are predicted. weights: of the systems as members of the
    ensemble; None: they are no ensemble.
    """

    systems: Sequence[Subject]
    kept: Mapping[str, str]
    threads: int
    weights: MemberWeights | None = None
    combine: str = "arithmetic"
    split: str = "test"
    order: Sequence[int] = ()
    """Of the members by their worth (`workers.evaluation.worth`); empty: their worth is not measured."""


@dataclass(frozen=True)
class Totals:
    """Sums of each system and, with weights, of the ensemble by `ENSEMBLE`, for its curve, and for members' worth."""

    sums: Mapping[str, Sums]
    curve: CurveSums | None = None
    worth: WorthSums | None = None

    def __add__(self, other: Totals) -> Totals:
        curve = None if self.curve is None or other.curve is None else self.curve + other.curve
        worth = None if self.worth is None or other.worth is None else self.worth + other.worth
        return Totals({name: sums + other.sums[name] for name, sums in self.sums.items()}, curve, worth)


@processes.task
def measure(job: Measuring, examples: slice, data: Dataset) -> Totals:
    """The metrics of systems on some examples of a split."""
    torch.set_num_threads(job.threads)
    split: Split = getattr(data, job.split)
    ids = np.arange(len(split))[examples]
    predicted, labels, blocks = (
        _of_systems(job, examples, data),
        split.labels_of(ids),
        metrics.blocks_of(data, job.split, ids),
    )
    sums = {
        member.name: metrics.measure(p, labels, blocks) for (member, _), p in zip(job.systems, predicted, strict=True)
    }
    if job.weights is None:
        return Totals(sums)
    sums[ENSEMBLE] = mixture.measure_mean(predicted, job.weights, job.combine, labels, blocks)
    worth = measure_worth(predicted, job.order, job.combine, labels, blocks, rule=job.weights) if job.order else None
    return Totals(sums, mixture.curve(predicted, job.weights, job.combine, labels, blocks), worth)


@dataclass(frozen=True)
class Correction:
    """A bias for classes of a system. train, test: records of its predictions; corrected: where those with the bias are
    kept, and their cache key."""

    classes: Sequence[int]
    train: str
    test: str
    corrected: tuple[str, Key]


@processes.task
def correct(job: Correction, data: Dataset) -> None:
    """Find a bias on the training split, and keep the predictions of the test split with it."""
    classes = np.array(job.classes, np.int64)
    found = bias.fitted(read_kept(job.train), data.train.y, classes)
    _keep(bias.corrected(read_kept(job.test), classes, found), *job.corrected, bias=found)


@processes.task
def order_members(job: Measuring, data: Dataset) -> list[int]:
    """The order of the members by `worth.greedy` on the split of the job."""
    torch.set_num_threads(job.threads)
    split: Split = getattr(data, job.split)
    return greedy(_of_systems(job, slice(None), data), split.labels_of(np.arange(len(split))), job.combine, job.weights)


@dataclass(frozen=True)
class Grouping:
    """So many groups of classes that the mean of some members confuses."""

    measured: Measuring
    number: int
    seed: int


@processes.task
def find_groups(job: Grouping, data: Dataset) -> Groups:
    """`confusable.groups` of the members' predictions."""
    torch.set_num_threads(job.measured.threads)
    covariance = confusable.covariance(_of_systems(job.measured, slice(None), data))
    return confusable.groups(covariance, job.number, job.seed)


@dataclass(frozen=True)
class Comparing:
    """The ensemble and the student, whose answers are compared; `most` rows of each kind are kept."""

    ensemble: Measuring
    student: Measuring
    most: int


@processes.task
def agreement(job: Comparing, examples: slice, data: Dataset) -> AgreementSums:
    """How the ensemble and the student answer some examples of a split."""
    ensemble = job.ensemble
    torch.set_num_threads(ensemble.threads)
    split: Split = getattr(data, ensemble.split)
    ids = np.arange(len(split))[examples]
    assert ensemble.weights is not None
    (answered,) = _of_systems(job.student, examples, data)
    return agreement_.compare(
        _of_systems(ensemble, examples, data),
        ensemble.weights,
        ensemble.combine,
        answered,
        labels=split.labels_of(ids),
        most=job.most,
        first=split.rows.span(examples).start,
    )


def _of_systems(job: Measuring, examples: slice, data: Dataset) -> list[LogProbabilities]:
    """Log-probabilities [P, K] float32 of each system on some examples of a split.

    Those of kept predictions are copies, so that the other rows of a file are not held.
    """
    whole: Split = getattr(data, job.split)
    rows = whole.rows.span(examples)
    return [
        read_kept(job.kept[member.name])[rows].copy()
        if member.name in job.kept
        else _predicted((member, how), data, job.split, examples)
        for member, how in job.systems
    ]


@dataclass(frozen=True)
class CustomMetrics:
    """The user's own metrics of a system, or with weights of an ensemble.

    ranges: of examples, predicted one after another, so that only one array of all positions is held.
    """

    specs: Sequence[FactorySpec]
    measured: Measuring
    ranges: Sequence[slice]


@processes.task
def custom_metrics(job: CustomMetrics, data: Dataset) -> dict[str, Metric]:
    """The user's own metrics. Each gets probabilities [P, K] float32."""
    torch.set_num_threads(job.measured.threads)
    weights, combine, found = job.measured.weights, job.measured.combine, []
    for examples in job.ranges:
        predicted = _of_systems(job.measured, examples, data)
        if weights is None:
            found.append(np.exp(predicted[0]))
        else:
            found += [np.exp(mean.astype(np.float32)) for _, mean in mixture.log_means(predicted, weights, combine)]
    blocks = metrics.blocks_of(data, "test", np.arange(len(data.test))).of
    return custom_metrics_.call(job.specs, np.concatenate(found), data.test.y, blocks)


@dataclass(frozen=True)
class Measurement:
    """The systems whose size and latency are measured: the members, with their ensemble, and the others.

    on: the device; None: CUDA where torch finds it.
    """

    members: Sequence[Subject]
    others: Sequence[Subject]
    combine: str
    repeats: int
    on: str | None = None


@dataclass(frozen=True)
class Described:
    """A system's size and speed: number of parameters, latency in ms, examples per second in batches of `BATCH`."""

    parameters: int
    latency_ms: dict[str, float]
    per_second: float


@processes.task
def describe(job: Measurement, data: Dataset) -> dict[str, Described]:
    """Size and speed of each system by its name, and of the ensemble.

    One process with one thread holds one network at a time, so that the figures are comparable and memory does not
    grow with the ensemble. The ensemble runs its members in turn and then averages their predictions. So its n-th
    latency is the sum of the members' n-th latencies, each measured after the caches were evicted, and of the average.
    """
    torch.set_num_threads(1)
    members, repeats = job.members, job.repeats
    place, x = device(job.on), data.served
    sizes = [checkpoints.size(member.weights) for member, _ in members]
    in_turn = [_timed(asked, x, place, repeats, sum(sizes) - size) for asked, size in zip(members, sizes, strict=True)]
    of_ensemble = np.sum([each.in_turn for each in in_turn], axis=0)
    if len(members) > 1:
        answers = [each.answered for each in in_turn]
        of_ensemble += latency.times_ms(lambda _: ensemble.average(answers, None, job.combine), place, repeats)
    alone = in_turn + [_timed(asked, x, place, repeats, 0) for asked in job.others]
    found = {
        member.name: Described(timed.parameters, latency.percentiles(timed.alone), BATCH / timed.batch_s)
        for (member, _), timed in zip([*members, *job.others], alone, strict=True)
    }
    found[ENSEMBLE] = Described(
        sum(each.parameters for each in in_turn),
        latency.percentiles(of_ensemble),
        BATCH / sum(each.batch_s for each in in_turn),
    )
    return found


@dataclass(frozen=True)
class _Timed:
    """One network's latencies in ms, alone and in turn with other networks, its prediction [1, K], and seconds
    for a batch."""

    parameters: int
    alone: Float64
    in_turn: Float64
    answered: Tensor
    batch_s: float


def _timed(asked: Subject, x: Examples, place: torch.device, repeats: int, others: int) -> _Timed:
    """Load one network, time it on examples of `x`, and release it.

    others: bytes of the networks that run in turn with it.
    """
    member, how = asked
    model, collator = teacher.load(member).to(place), predictor.collator(member.model)
    one, many = (latency.answers(model, collator, x, place, size=size, precision=how.precision) for size in (1, BATCH))
    alone = latency.times_ms(one, place, repeats)
    in_turn = latency.times_ms(one, place, repeats, others) if others else alone
    batch_s = latency.batch_s(many, place)
    with torch.no_grad():
        return _Timed(model.parameters, alone, in_turn, one(0), batch_s)
