"""Who trains where: members as Ray tasks side by side, baseline and student in Ray Train.

A trained system is known by the fingerprint of everything it follows from, written beside its weights when they are
complete. One whose fingerprint is the asked one is not trained again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from pydantic import BaseModel

from orchestrator import cluster, ray_train
from orchestrator.room import Waiting, amounts, is_any_alive
from workers import checkpoints, processes, provenance, storage
from workers.jobs import train_member
from workers.models import seed_of
from workers.specs import DistillationSpec, ModelSpec, TrainingSpec
from workers.student import Store, WorkerJob
from workers.teacher import Member
from workers.train_loop import HARD_LABELS, Epoch

if TYPE_CHECKING:
    from orchestrator.context import Context

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
RECORD = "training.json"
POLL_S = 2.0


class Record(BaseModel):
    """What is written beside trained weights, after them: what they follow from, and which file they are."""

    fingerprint: str
    sha256: str
    history: list[dict[str, float]]
    begun: str = ""
    """The fingerprint that was known when it began: of what its soft targets follow from, not of themselves."""

    def epochs(self) -> list[Epoch]:
        return [Epoch(**{**e, "epoch": int(e["epoch"]), "examples": int(e["examples"])}) for e in self.history]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trained:
    """A trained system, and whether an earlier run had trained it."""

    member: Member
    history: list[Epoch]
    reused: bool


def fingerprint(model: ModelSpec, training: TrainingSpec, seed: int, **also: Any) -> str:
    """sha256 of everything that a trained network follows from, the code of its factory included."""
    what = {
        **provenance.of_model(model),
        "training": training.model_dump(mode="json"),
        "seed": seed,
        **also,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def train_members(run: Context, training: TrainingSpec) -> list[Trained]:
    """The ensemble's members, each from a seed of its own, as many at a time as the cluster takes.

    Where one hangs its process is ended, and Ray begins its task again.

    Raises: `RunError` where for `ensemble.start_timeout_s` the cluster has no room for any of them.
    """
    model, seed, digests = run.config.ensemble.model, run.config.seed, run.dataset.digests
    placement, journal = run.placement, run.journal
    found: dict[int, Trained] = {}
    pending: dict[Any, tuple[int, Member, str]] = {}
    for k in range(placement.size):
        own_seed = seed_of(seed, "member", k)
        member = Member(f"member-{k}", model, storage.join(run.config.folder, "members", str(k), WEIGHTS))
        mark = fingerprint(model, training, own_seed, train=digests["train"], validation=digests["validation"])
        record = _complete(member, mark)
        if record is not None:
            found[k] = Trained(member, record, reused=True)
            continue
        task = train_member.options(**placement.options, name=f"train {member.name}").remote(
            member, training, own_seed, mark, run.data, placement.threads, journal.queue
        )
        pending[task] = (k, member, mark)
    what = f"members in training: {len(pending)} times {amounts(placement.held)}"
    waiting = Waiting(what, run.config.ensemble.start_timeout_s, journal.note)
    try:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_S)
            for _, member, _ in pending.values():
                where = journal.hung(member.name)
                if where is not None:
                    processes.end(where)
            if not ready:
                waiting.check(is_any_alive(journal.where(member.name) for _, member, _ in pending.values()))
                continue
            waiting.check(begun=True)
            (done,) = ready
            k, member, mark = pending[done]
            history = ray.get(done)
            del pending[done]
            _record(member, mark, history)
            storage.remove(storage.join(storage.parent(member.weights), checkpoints.STATE))
            found[k] = Trained(member, history, reused=False)
    except Exception as error:
        raise cluster.as_run_error(f"training {member.name}", error) from error
    finally:
        if run.machines.lent:  # else they end with this process; Ray 2.60 may crash where one ends as it is cancelled
            for task in pending:
                ray.cancel(task)
    return [found[k] for k in range(placement.size)]


@dataclass(frozen=True)
class StudentJob:
    """What Ray Train is to train: the student, or without soft targets the hard-label baseline."""

    role: str
    model: ModelSpec
    training: TrainingSpec
    seed: int
    workers: tuple[int, int]
    """The least and the most."""
    loss: DistillationSpec = HARD_LABELS
    store: Store | None = None
    """Soft targets, which may still be on their way."""
    store_mark: str = ""
    """What they follow from."""
    store_content: Callable[[], str] = str
    """sha256 over the soft targets themselves; waits until they are complete."""


def train_with_ray(run: Context, job: StudentJob) -> Trained:
    """Baseline or student by Ray Train: DDP over the workers, checkpoints in the run's storage, resumed from there.

    Raises: `RunError` where for `ensemble.start_timeout_s` the cluster has no room for the least of its workers.
    """
    machines, digests = run.machines, run.dataset.digests
    place = storage.join(run.config.folder, job.role)
    member = Member(job.role, job.model, storage.join(place, WEIGHTS))

    def mark(soft_targets: str) -> str:  # the transfer set is in it
        return fingerprint(
            job.model,
            job.training,
            job.seed,
            train=digests["train"],
            validation=digests["validation"],
            augmentation=run.dataset.augmentation,
            soft_targets=soft_targets,
            loss=job.loss.model_dump(mode="json", exclude={"stream", "keep"}),
        )

    on_its_way = job.store is not None and job.store.coming
    begun = mark(job.store_mark)
    if not on_its_way or _begun_as(member) == begun:  # what was trained then may still be right: worth the wait
        history = _complete(member, mark(job.store_content()))
        if history is not None:
            return Trained(member, history, reused=True)
    work = WorkerJob(
        role=job.role,
        model=job.model,
        training=job.training,
        seed=job.seed,
        data=run.data,
        folder=place,
        weights=member.weights,
        threads=ray_train.threads_of_a_worker(job.workers[1], machines.of("student")),
        heard=run.journal.queue,
        store=job.store,
        loss=job.loss,
        run=run.config.name,
    )
    name = f"checkpoints-{begun[:12]}"
    history = ray_train.fit(run, work, job.workers, name)
    _record(member, mark(job.store_content()), history, begun)
    ray_train.clear(place, name)
    return Trained(member, history, reused=False)


def _complete(member: Member, mark: str) -> list[Epoch] | None:
    """The history of a system that was trained to the end from just this, else None."""
    record = record_in(storage.parent(member.weights))
    if record is None or not storage.exists(member.weights):
        return None
    if record.fingerprint != mark or record.sha256 != checkpoints.sha256(member.weights):
        return None
    return record.epochs()


def _begun_as(member: Member) -> str | None:
    record = record_in(storage.parent(member.weights))
    return None if record is None else record.begun


def record_in(folder: str) -> Record | None:
    """What is written beside the weights in a system's folder; None where nothing was trained to the end there."""
    uri = storage.join(folder, RECORD)
    if not storage.exists(uri):
        return None
    try:
        return Record.model_validate_json(storage.read_text(uri))
    except ValueError:  # not the record that was written, or no text at all
        return None


def _record(member: Member, mark: str, history: list[Epoch], begun: str = "") -> None:
    record = Record(
        fingerprint=mark,
        sha256=checkpoints.sha256(member.weights),
        history=[vars(epoch) for epoch in history],
        begun=begun,
    )
    storage.write_text(storage.join(storage.parent(member.weights), RECORD), record.model_dump_json() + "\n")
