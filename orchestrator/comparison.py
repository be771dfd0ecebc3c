"""Every system on the same held-out data: predictions in parallel, figures from one place.

The ensemble's prediction is the same mean that made the soft targets, at T = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from orchestrator import cluster
from orchestrator.cluster import Placement
from orchestrator.config import EnsembleSpec, RunConfig
from orchestrator.report import Calibration, CurvePoint, Latency, System, TestMetrics
from workers import ensemble as ensembles
from workers import evaluate, jobs
from workers.data import Dataset
from workers.evaluate import Sums
from workers.teacher import Member

Predictions = NDArray[np.float32]


def member_weights(
    spec: EnsembleSpec,
    members: Sequence[Member],
    dataset: Dataset,
    data: ray.ObjectRef[Dataset],
    placement: Placement,
) -> list[float]:
    """The members' weights, summing to 1: uniform, given, or fitted to the validation labels."""
    if spec.weights == "uniform":
        return ensembles.normalised([1.0] * len(members))
    if spec.weights != "validation":
        return ensembles.normalised(spec.weights)
    labels = dataset.validation.y
    predicted = predict(members, data, "validation", placement)
    of_label = np.stack([p[np.arange(len(labels)), labels] for p in predicted])
    return ensembles.fit_weights(torch.from_numpy(of_label))


def compare_systems(
    config: RunConfig,
    dataset: Dataset,
    data: ray.ObjectRef[Dataset],
    members: Sequence[Member],
    of_members: Sequence[Predictions],
    weights: Sequence[float],
    baseline: Member,
    student: Member,
    placement: Placement,
) -> tuple[list[System], list[CurvePoint]]:
    """Each system's test figures, and what an ensemble of 1, 2, ... members is worth.

    of_members: what the members predict for the test split. placement: of a student.
    """
    combine = config.ensemble.combine
    of_students = predict([baseline, student], data, "test", placement)
    single = [*members, baseline, student]
    predicted = {m.name: p for m, p in zip(single, [*of_members, *of_students], strict=True)}
    predicted["ensemble"] = _mean(of_members, weights, combine)

    described = jobs.describe.options(num_cpus=1, num_gpus=placement.num_gpus, resources=dict(placement.roles)).remote(
        {**{m.name: [m] for m in single}, "ensemble": list(members)},
        data,
        combine,
        config.evaluation.latency_repeats,
    )
    try:
        sizes = ray.get(described)  # alone, since it measures time
        metrics = _custom_metrics(config, predicted, dataset.test.y)
    except Exception as error:
        raise cluster.as_run_error("evaluation", error) from error

    roles: dict[str, Any] = {m.name: "member" for m in members}
    roles |= {"ensemble": "ensemble", "baseline": "baseline", "student": "student"}
    systems = [
        _system(name, role, predicted[name], dataset.test.y, *sizes[name], metrics[name])
        for name, role in roles.items()
    ]
    return systems, curve(of_members, weights, combine, dataset.test.y)


def curve(
    predicted: Sequence[Predictions], weights: Sequence[float], combine: str, labels: NDArray[np.int64]
) -> list[CurvePoint]:
    """Accuracy and likelihood by number of members.

    One choice of k members would say as much of the choice as of k, so each point is the mean over every run of k
    neighbours in the members' ring: each member appears equally often.
    """
    members = len(predicted)
    points = []
    for k in range(1, members + 1):
        choices = [[(first + step) % members for step in range(k)] for first in range(members if k < members else 1)]
        sums = [
            evaluate.measure(_mean([predicted[m] for m in chosen], [weights[m] for m in chosen], combine), labels)
            for chosen in choices
            if sum(weights[m] for m in chosen) > 0
        ]
        points.append(
            CurvePoint(
                members=k,
                accuracy=sum(s.accuracy for s in sums) / len(sums),
                nll=sum(s.mean_nll for s in sums) / len(sums),
            )
        )
    return points


def predict(
    systems: Sequence[Member], data: ray.ObjectRef[Dataset], split: str, placement: Placement
) -> list[Predictions]:
    """What each system predicts for a split."""
    tasks = [
        jobs.predict.options(
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            resources=dict(placement.roles),
            name=f"predict {system.name}",
        ).remote(system, data, split, placement.threads)
        for system in systems
    ]
    try:
        return list(ray.get(tasks))
    except Exception as error:
        raise cluster.as_run_error(f"predicting the {split} split", error) from error


def _custom_metrics(
    config: RunConfig, predicted: dict[str, Predictions], labels: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """What the configuration's own metrics say of each system, side by side; `{}` for each without any."""
    asked = config.evaluation.metrics
    if not asked:
        return {name: {} for name in predicted}
    tasks = {name: jobs.custom_metrics.remote(asked, p, labels) for name, p in predicted.items()}
    return {name: ray.get(task) for name, task in tasks.items()}


def _mean(predicted: Sequence[Predictions], weights: Sequence[float], combine: str) -> Predictions:
    tensors = [torch.from_numpy(p.copy()) for p in predicted]
    mean: Predictions = ensembles.average(tensors, list(weights), combine).numpy()
    return mean


def _system(
    name: str,
    role: Any,
    predicted: Predictions,
    labels: NDArray[np.int64],
    parameters: int,
    latency: dict[str, float],
    extra: dict[str, float],
) -> System:
    sums = evaluate.measure(predicted, labels)
    return System(
        name=name,
        role=role,
        parameters=parameters,
        test=TestMetrics(examples=sums.examples, accuracy=sums.accuracy, nll=sums.mean_nll, ece=sums.ece, **extra),
        latency_ms=Latency(**latency),
        calibration=_calibration(sums),
    )


def _calibration(sums: Sums) -> Calibration:
    count = np.maximum(sums.bin_examples, 1)
    return Calibration(
        examples=[int(n) for n in sums.bin_examples],
        confidence=[float(v) for v in sums.bin_confidence / count],
        accuracy=[float(v) for v in sums.bin_correct / count],
    )
