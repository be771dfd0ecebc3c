"""Ray tasks that fit an estimator: a member on labels, a student on soft targets.

The history of a fit is one epoch, so that metrics, costs and records have the same form as those of a network.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from workers import faults, processes, storage, telemetry
from workers.data import sampling
from workers.data.dataset import Dataset
from workers.evaluation import metrics
from workers.evaluation.metrics import Inference
from workers.inference.saved_weights import check_saved
from workers.models import predictor
from workers.models.predictor import FLOOR, Lessons
from workers.specs.objective import DistillationSpec
from workers.specs.training import FitSpec
from workers.targets.student_store import Store
from workers.training import lessons
from workers.training.loop import HARD_LABELS, Epoch
from workers.training.tasks import MemberJob

CPU = torch.device("cpu")


@dataclass(frozen=True)
class FitJob(MemberJob):
    """An estimator to fit: a member, the baseline or the student. Without soft targets it learns from labels."""

    views: int = 0
    """Views of each example for an estimator that learns from labels; 0: the examples of `sample`, not augmented."""
    store: Store | None = None
    loss: DistillationSpec = HARD_LABELS
    run: str = ""
    """The run whose metrics the process exports; empty: it exports none."""


@ray.remote
def fit(job: FitJob, data: Dataset, events: Any) -> list[Epoch]:
    """Fit an estimator, write it and return its history.

    Raises: `Fault` with the member's name for what the estimator raised.
    """
    member = job.member
    assert isinstance(job.training, FitSpec)
    if job.run:
        telemetry.label(job.run)
    processes.announce(member.name, events)
    torch.set_num_threads(job.threads)
    started = time.perf_counter()
    with faults.caught(member.name):
        given = _lessons(job, data)
        waited_s = time.perf_counter() - started if job.store is not None else 0.0
        fitted = predictor.fittable(member.model).fit(member.model, given, job.training.fit)
        storage.write_bytes(member.weights, fitted.dump())
        check_saved(fitted, member, data.validation.x, CPU)
        how, validation = Inference("float32", on=CPU.type), data.validation
        collator = predictor.collator(member.model)
        answered = metrics.log_probabilities(fitted, validation.x, how, collator=collator)
        sums = metrics.measure(answered, validation.y)
        epoch = Epoch(
            epoch=0,
            train_loss=_divergence(given, metrics.log_probabilities(fitted, given.x, how)),
            validation_accuracy=sums.accuracy,
            validation_nll=sums.mean_nll,
            seconds=time.perf_counter() - started,
            examples=len(given.x),
            ended_s=time.time(),
            waited_s=waited_s,
        )
    events.actor.put_nowait.remote((member.name, epoch))
    return [epoch]


def _lessons(job: FitJob, data: Dataset) -> Lessons:
    collator = predictor.collator(job.member.model)
    if job.store is not None:
        return lessons.soft(data.transfer, job.store, job.loss, job.seed, collator)
    draw = sampling.draw_of(job.sample, data, job.seed)
    ids = None if draw is None else draw(0)
    split = data.labelled(job.views) if job.views else data.train
    return lessons.hard(split, data.classes, job.seed, collator, ids)


def _divergence(given: Lessons, answers: metrics.LogProbabilities) -> float:
    """KL(targets || outputs), averaged over the rows by their weights: 0 where they are equal."""
    targets = given.targets.astype(np.float64)
    each = (targets * (np.log(np.maximum(targets, FLOOR)) - answers)).sum(axis=1)
    found = float(np.average(each, weights=given.weights))
    return found if math.isfinite(found) else 0.0
