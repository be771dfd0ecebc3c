"""Every system on the same held-out data: predictions in parallel, figures from one place.

The ensemble's prediction is the same mean that made the soft targets, at T = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator import cluster
from orchestrator.cluster import Placement
from orchestrator.context import Context
from orchestrator.report import Calibration, CurvePoint, Latency, System, TestMetrics
from orchestrator.room import Need, Waiting
from orchestrator.tasks import Task, completed
from workers import checkpoints, evaluate, jobs, storage, teacher
from workers import ensemble as ensembles
from workers.evaluate import Sums
from workers.soft_targets import fingerprint
from workers.teacher import Member

Predictions = NDArray[np.float32]

KEPT_BYTES = 2**28
"""The most that one system's predictions may take to be kept for the next run in this folder."""


def member_weights(run: Context, members: Sequence[Member]) -> list[float]:
    """The members' weights, summing to 1: uniform, given, or fitted to the validation labels."""
    spec = run.config.ensemble
    if spec.weights == "uniform":
        return ensembles.normalised([1.0] * len(members))
    if spec.weights != "validation":
        return ensembles.normalised(spec.weights)
    labels = run.dataset.validation.y
    predicted = predict(run, members, "validation", run.placement)
    of_label = np.stack([p[np.arange(len(labels)), labels] for p in predicted])
    return ensembles.fit_weights(torch.from_numpy(of_label))


def compare_systems(
    run: Context,
    members: Sequence[Member],
    of_members: Sequence[Predictions],
    weights: Sequence[float],
    baseline: Member,
    student: Member,
) -> tuple[list[System], list[CurvePoint]]:
    """Each system's test figures, and what an ensemble of 1, 2, ... members is worth.

    of_members: what the members predict for the test split.
    """
    combine, labels = run.config.ensemble.combine, run.dataset.test.y
    place = cluster.place_student(run.machines)
    of_students = predict(run, [baseline, student], "test", place)
    single = [*members, baseline, student]
    predicted = {m.name: p for m, p in zip(single, [*of_members, *of_students], strict=True)}
    predicted["ensemble"] = _mean(of_members, weights, combine)

    everybody = {**{m.name: [m] for m in single}, "ensemble": list(members)}
    repeats = run.config.evaluation.latency_repeats

    (sizes,) = _asked(  # alone, since it measures time
        run, "measuring latency", jobs.describe, {"of all": (everybody, run.data, combine, repeats)}, place
    ).values()
    asked = run.config.evaluation.metrics
    measured = {name: (asked, p, labels) for name, p in predicted.items()} if asked else {}
    metrics = _asked(run, "measuring", jobs.custom_metrics, measured, place)

    roles: dict[str, Any] = {m.name: "member" for m in members}
    roles |= {"ensemble": "ensemble", "baseline": "baseline", "student": "student"}
    systems = [
        _system(name, role, predicted[name], labels, sizes[name], metrics.get(name, {})) for name, role in roles.items()
    ]
    return systems, curve(of_members, weights, combine, labels)


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


def predict(run: Context, systems: Sequence[Member], split: str, placement: Placement) -> list[Predictions]:
    """What each system predicts for a split; kept, so that a run that is resumed needs no machines for it."""
    known = {system.name: system for system in systems}
    places = {name: storage.join(run.config.folder, "predictions", f"{name}-{split}.pt") for name in known}
    digest = run.dataset.digests[split]
    marks = {name: fingerprint(**teacher.follows_from(system), split=digest) for name, system in known.items()}
    kept = {name: checkpoints.load_state(places[name], marks[name]) for name in known}
    found = {name: state["probabilities"].numpy() for name, state in kept.items() if state is not None}
    fits = 4 * len(getattr(run.dataset, split)) * run.dataset.classes <= KEPT_BYTES
    missing = {
        name: (system, run.data, split, placement.threads, (places[name], marks[name]) if fits else None)
        for name, system in known.items()
        if name not in found
    }
    found |= _asked(run, f"predicting the {split} split", jobs.predict, missing, placement)
    return [found[name] for name in known]


def _asked(
    run: Context, doing: str, job: Any, of: Mapping[str, tuple[Any, ...]], placement: Placement
) -> dict[str, Any]:
    """What a job of `workers.jobs` returns for each of these arguments, by their names."""
    tasks = {}
    for name, arguments in of.items():
        own = f"{doing}: {name}"
        tasks[own] = Task(own, job, (*arguments, own, run.journal.queue), placement)
    need = Need(doing, len(tasks), placement.held, placement.held)
    waiting = Waiting(need, run.config.ensemble.start_timeout_s, run.journal.note, least=1)
    with closing(completed(list(tasks.values()), waiting, run.journal)) as ended:
        found = {task.name: result for task, result in ended}
    return {name: found[own] for name, own in zip(of, tasks, strict=True)}


def _mean(predicted: Sequence[Predictions], weights: Sequence[float], combine: str) -> Predictions:
    tensors = [torch.from_numpy(p.copy()) for p in predicted]
    mean: Predictions = ensembles.average(tensors, list(weights), combine).numpy()
    return mean


def _system(
    name: str,
    role: Any,
    predicted: Predictions,
    labels: NDArray[np.int64],
    size: tuple[int, dict[str, float]],
    extra: dict[str, float],
) -> System:
    sums = evaluate.measure(predicted, labels)
    parameters, latency = size
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
