"""What runs as a Ray task: a member's training, a system's predictions, the latency of all.

Tasks and not actors, since each has a beginning and an end; ten tasks cost seconds where ten Ray Train starts cost
minutes. Each first announces itself in `events`, a `ray.util.queue.Queue`. Exceptions leave it as a `Fault`.
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
from workers.evaluation import metrics
from workers.evaluation.metrics import Inference, LogProbabilities
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor
from workers.models.predictor import Predictor
from workers.specs import FactorySpec

logger = logging.getLogger(__name__)

Asked = tuple[Member, Inference]
"""A system, and how it computes when it answers."""
PREDICTED = "log_probabilities"
"""What kept predictions are called in their file."""
ENSEMBLE = "ensemble"
"""The name of all members together."""


@dataclass(frozen=True)
class Prediction:
    """What a system is asked for: its log-probabilities for a split.

    of_labels: of the labels alone. kept: URI of the record that they are kept by, and their key.
    """

    asked: Asked
    split: str
    of_labels: bool
    threads: int
    kept: tuple[str, Key] | None = None


@ray.remote
@faults.raises_faults
def predict(job: Prediction, data: Dataset, name: str, events: Any) -> LogProbabilities:
    """Log-probabilities of one system at T = 1 for a split: [N, K] float32, or [N] of the labels.

    Raises: `RunError` where an answer holds NaN.
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
        except Exception as error:  # of any storage; they are only kept to save time
            logger.warning("predictions could not be kept: %s", error)
    return predicted


def _keep(predicted: LogProbabilities, record: str, key: Key) -> None:
    """Write predictions as safetensors beside their record, and then the record."""
    uri = kept_beside(record)
    content = safetensors.numpy.save({PREDICTED: predicted})
    storage.write_bytes(uri, content)
    store.commit(record, key, {uri.rsplit("/", 1)[1]: storage.sha256(content)})


def kept_beside(record: str) -> str:
    """The file with the predictions that the record at a URI states."""
    return record.removesuffix(".json") + ".safetensors"


@dataclass(frozen=True)
class Measurement:
    """Whose size and latency are measured: the members with their mean, and the others."""

    members: Sequence[Asked]
    others: Sequence[Asked]
    combine: str
    repeats: int


@ray.remote
@faults.raises_faults
def describe(job: Measurement, data: Dataset, name: str, events: Any) -> dict[str, tuple[int, dict[str, float]]]:
    """Parameters and latency in ms of one example: of each system by its name, and of the members' ensemble.

    One process with one thread holds one network at a time, so that the figures can be compared and memory does not
    grow with the ensemble. The ensemble answers by its members in turn and then the mean of what they answered: the
    n-th of its times is the sum of their n-th times, each taken with the other members' weights read in between.
    """
    processes.announce(name, events)
    torch.set_num_threads(1)
    members, repeats = job.members, job.repeats
    place = device()
    x = data.test.x
    sizes = [checkpoints.size(member.weights) for member, _ in members]
    in_turn = [_timed(asked, x, place, repeats, sum(sizes) - size) for asked, size in zip(members, sizes, strict=True)]
    of_ensemble = np.sum([each.in_turn for each in in_turn], axis=0)
    if len(members) > 1:
        answers = [each.answered for each in in_turn]
        of_ensemble += metrics.times_ms(lambda _: ensemble.average(answers, None, job.combine), answers[0], repeats)
    alone = in_turn + [_timed(asked, x, place, repeats, 0) for asked in job.others]
    found = {
        member.name: (timed.parameters, metrics.percentiles(timed.alone))
        for (member, _), timed in zip([*members, *job.others], alone, strict=True)
    }
    found[ENSEMBLE] = sum(each.parameters for each in in_turn), metrics.percentiles(of_ensemble)
    return found


@ray.remote
@faults.raises_faults
def custom_metrics(
    specs: Sequence[FactorySpec], predicted: LogProbabilities, labels: NDArray[np.int64], name: str, events: Any
) -> dict[str, float]:
    """The metrics that the configuration adds, of one system's predictions: they get probabilities [N, K] float32."""
    processes.announce(name, events)
    return custom_metrics_.call(specs, np.exp(predicted), labels)


@dataclass(frozen=True)
class _Timed:
    """One network's latency: ms of each time, alone and in turn with others; and what it answered, [1, K]."""

    parameters: int
    alone: NDArray[np.float64]
    in_turn: NDArray[np.float64]
    answered: Tensor


def _timed(asked: Asked, x: Examples, place: torch.device, repeats: int, others: int) -> _Timed:
    """Load one network, time it on the first example of `x`, let it go. others: bytes of the networks that answer in
    turn with it."""
    member, how = asked
    model = teacher.load(member).to(place)
    answer, example = _answering(model, how), predictor.collator(member.model)(x, np.zeros(1, np.int64)).to(place)
    alone = metrics.times_ms(answer, example, repeats)
    in_turn = metrics.times_ms(answer, example, repeats, others) if others else alone
    return _Timed(model.parameters, alone, in_turn, answer(example))


def _answering(model: Predictor, how: Inference) -> Callable[[Inputs], Tensor]:
    """What answers a batch with probabilities."""

    @torch.no_grad()
    def answer(x: Inputs) -> Tensor:
        return torch.softmax(model(x, how.precision).logits, dim=-1)

    return answer
