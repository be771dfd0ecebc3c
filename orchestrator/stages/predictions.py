"""Predictions of systems on a split, in tasks; they are cached, so that a resumed run needs no machines for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.cluster.resources import Placement
from orchestrator.cluster.tasks import Task
from orchestrator.run_folder import paths
from orchestrator.stages.context import Context
from orchestrator.stages.ray_tasks import run_tasks
from workers import storage
from workers.artifacts import catalogue
from workers.artifacts.key import Key
from workers.artifacts.kinds import PREDICTIONS
from workers.data.dataset import Dataset, Split
from workers.evaluation import tasks as jobs
from workers.evaluation.metrics import Inference
from workers.evaluation.tasks import Prediction, Subject
from workers.inference import teacher

KEPT_BYTES = 2**28
"""Largest predictions of one system that are cached; a task predicts and measures larger ones without keeping them."""


@dataclass(frozen=True)
class Predicted:
    """The records of predictions that are kept, by system. reused: all were cached."""

    records: dict[str, str]
    reused: bool


def predict(
    run: Context, systems: Sequence[Subject], split: str, placement: Placement, *, of_labels: bool = False
) -> Predicted:
    """Predict a split with each system, [P, K], or with `of_labels` [P], and cache the predictions.

    So a resumed run needs no machines for them. Predictions that are too large to be kept are left to `_measure`.
    """
    if not of_labels and predicted_bytes(run.dataset, split) > KEPT_BYTES:
        return Predicted({}, reused=False)
    known = {member.name: (member, how) for member, how in systems}
    keys = {name: _key(run, asked, split, of_labels) for name, asked in known.items()}
    records = {name: run.artifacts.uri(paths.predictions(name, split)) for name in known}
    had = run.artifacts.obtain_all((key, partial(record_of, name, split)) for name, key in keys.items())
    missing = {
        name: (Prediction(known[name], split, of_labels, placement.threads, (records[name], keys[name])), run.data)
        for name, each in zip(known, had, strict=True)
        if each is None
    }
    run.note(catalogue.note(f"predictions of the {split} split", had))
    if missing:
        _remove_earlier(run, split)
    results_of(run, f"predicting the {split} split", jobs.predict, missing, placement)
    for name in missing:
        run.artifacts.register(keys[name], paths.predictions(name, split))
    return Predicted(records, reused=not missing)


def predicted_bytes(dataset: Dataset, split: str) -> int:
    """Size of one system's predictions of a split."""
    whole: Split = getattr(dataset, split)
    return 4 * len(whole.rows) * dataset.classes


def _key(run: Context, asked: Subject, split: str, of_labels: bool) -> Key:
    """The cache key of a system's predictions for a split."""
    member, how = asked
    return PREDICTIONS.key(
        **teacher.follows_from(member), of_labels=of_labels, **computed(how), split=run.dataset.digests[split]
    )


def computed(how: Inference) -> dict[str, Any]:
    """How predictions are computed, in their keys. Earlier versions rounded logits where layers are in bfloat16."""
    return {"precision": how.precision} | ({} if how.precision == "float32" else {"last_product": "float32"})


def _remove_earlier(run: Context, split: str) -> None:
    """Remove predictions for a split in the format of an earlier version, and tell the user."""
    place = storage.parent(paths.predictions("student", split))
    folder = run.artifacts.uri(place)
    kept = [name for name in storage.names(folder) if name.endswith(f"-{split}.pt")]
    earlier = [name for name in kept if paths.is_written(storage.join(place, name))]
    if earlier:
        storage.remove_files(folder, earlier)
        run.note(
            f"predictions of the {split} split are computed again: an earlier version of Stillhouse kept them in a "
            "format that this one does not read."
        )


def record_of(system: str, split: str, digest: str) -> str:
    """The path of the cache record: a system has one per split, whatever its key."""
    return paths.predictions(system, split)


def results_of(
    run: Context, doing: str, job: Any, of: Mapping[str, tuple[Any, ...]], placement: Placement
) -> dict[str, Any]:
    """The results of a job of `workers.evaluation.tasks` for each tuple of arguments, by name."""
    tasks = {}
    for name, arguments in of.items():
        own = f"{doing}: {name}"
        tasks[own] = Task(own, job, (*arguments, own, run.heartbeat.queue), placement)
    with run_tasks(run, doing, list(tasks.values())) as ended:
        found = {task.name: result for task, result in ended}
    return {name: found[own] for name, own in zip(of, tasks, strict=True)}


def result_of(run: Context, doing: str, job: Any, asked: Any, placement: Placement, *, name: str = "all") -> Any:
    """The result of a job that one task does on the whole data set. asked: the first argument of the job."""
    return results_of(run, doing, job, {name: (asked, run.data)}, placement)[name]
