"""Ray tasks of the evaluation: a system's predictions, the latency of all systems, custom metrics.

Each task first announces itself in `events`, a `ray.util.queue.Queue`. It re-raises exceptions as a `Fault`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers import ensemble, faults, processes, storage
from workers.artifacts import store
from workers.artifacts.key import Key
from workers.data.collate import Inputs
from workers.data.dataset import Dataset
from workers.data.examples import Examples
from workers.device import device
from workers.errors import RunError
from workers.evaluation import custom_metrics as custom_metrics_
from workers.evaluation import latency, metrics
from workers.evaluation.latency import BATCH
from workers.evaluation.metrics import Inference, LogProbabilities
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor
from workers.specs import FactorySpec

logger = logging.getLogger(__name__)

Asked = tuple[Member, Inference]
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

    asked: Asked
    split: str
    of_labels: bool
    threads: int
    kept: tuple[str, Key] | None = None


@ray.remote
@faults.raises_faults
def predict(job: Prediction, data: Dataset, name: str, events: Any) -> LogProbabilities:
    """Log-probabilities of one system on a split at T = 1: [N, K] float32, or with `of_labels` [N].

    Raises: `RunError` where a prediction is NaN.
    """
    processes.announce(name, events)
    torch.set_num_threads(job.threads)
    (member, how), split, examples = job.asked, job.split, getattr(data, job.split)
    labels = examples.y if job.of_labels else None
    collator = predictor.collator(member.model)
    predicted = metrics.log_probabilities(teacher.load(member), examples.x, how, labels, collator)
    wrong = np.flatnonzero(np.isnan(predicted).reshape(len(predicted), -1).any(axis=1))
    if len(wrong):
        first = examples.rows.example_of(int(wrong[0]))
        raise RunError(
            f"{member.name} answers NaN for example {first} of the {split} split, and for {len(wrong)} in all; "
            "expected finite logits. Check its weights, and what its model computes of this example."
        )
    if job.kept is not None:
        try:
            _keep(predicted, *job.kept)
        except Exception as error:  # from any storage backend; the cache only saves time
            logger.warning("predictions could not be kept: %s", error)
    return predicted


def _keep(predicted: LogProbabilities, record: str, key: Key) -> None:
    """Write predictions as safetensors beside their record, then the record, so that a record implies its file."""
    uri = kept_beside(record)
    content = safetensors.numpy.save({PREDICTED: predicted})
    storage.write_bytes(uri, content)
    store.commit(record, key, {uri.rsplit("/", 1)[1]: storage.sha256(content)})


def kept_beside(record: str) -> str:
    """URI of the predictions that the record at `record` describes."""
    return record.removesuffix(".json") + ".safetensors"


@dataclass(frozen=True)
class Measurement:
    """The systems whose size and latency are measured: the members, with their ensemble, and the others."""

    members: Sequence[Asked]
    others: Sequence[Asked]
    combine: str
    repeats: int


@dataclass(frozen=True)
class Described:
    """A system's size and speed: number of parameters, latency in ms, examples per second in batches of `BATCH`."""

    parameters: int
    latency_ms: dict[str, float]
    per_second: float


@ray.remote
@faults.raises_faults
def describe(job: Measurement, data: Dataset, name: str, events: Any) -> dict[str, Described]:
    """Size and speed of each system by its name, and of the ensemble.

    One process with one thread holds one network at a time, so that the figures are comparable and memory does not
    grow with the ensemble. The ensemble runs its members in turn and then averages their predictions. So its n-th
    latency is the sum of the members' n-th latencies, each measured after the caches were evicted, and of the average.
    """
    processes.announce(name, events)
    torch.set_num_threads(1)
    members, repeats = job.members, job.repeats
    place, x = device(), data.served
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


@ray.remote
@faults.raises_faults
def custom_metrics(
    specs: Sequence[FactorySpec], predicted: LogProbabilities, labels: NDArray[np.int64], name: str, events: Any
) -> dict[str, float]:
    """The user's own metrics of one system's predictions; each metric gets probabilities [N, K] float32."""
    processes.announce(name, events)
    return custom_metrics_.call(specs, np.exp(predicted), labels)


@dataclass(frozen=True)
class _Timed:
    """One network's latencies in ms, alone and in turn with other networks, its prediction [1, K], and seconds
    for a batch."""

    parameters: int
    alone: NDArray[np.float64]
    in_turn: NDArray[np.float64]
    answered: Tensor
    batch_s: float


def _timed(asked: Asked, x: Examples, place: torch.device, repeats: int, others: int) -> _Timed:
    """Load one network, time it on examples of `x`, and release it.

    others: bytes of the networks that run in turn with it.
    """
    member, how = asked
    model, collator = teacher.load(member).to(place), predictor.collator(member.model)
    one, many = (latency.requests(collator, x, place, size) for size in (1, BATCH))

    def answering(request: Callable[[int], Inputs]) -> Callable[[int], Tensor]:
        return lambda call: torch.softmax(model(request(call), how.precision).logits, dim=-1)

    alone = latency.times_ms(answering(one), place, repeats)
    in_turn = latency.times_ms(answering(one), place, repeats, others) if others else alone
    batch_s = latency.batch_s(answering(many), place)
    with torch.no_grad():
        return _Timed(model.parameters, alone, in_turn, answering(one)(0), batch_s)
