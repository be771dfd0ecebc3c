"""Who trains where: members as Ray tasks side by side, baseline and student in Ray Train.

A trained system is known by the fingerprint of everything it follows from, written beside its weights when they are
complete. One whose fingerprint is the asked one is not trained again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from pydantic import BaseModel
from ray.train.torch import TorchTrainer

from orchestrator import cluster, room
from orchestrator.cluster import Machines
from orchestrator.room import Waiting, amounts, is_any_alive
from workers import checkpoints, factories, processes, storage
from workers.errors import RunError
from workers.jobs import train_member
from workers.models import seed_of
from workers.specs import DistillationSpec, ModelSpec, TrainingSpec
from workers.student import FAILURE, HISTORY, Store, WorkerJob
from workers.student import train as train_on_worker
from workers.teacher import Member
from workers.train_loop import HARD_LABELS, Epoch

if TYPE_CHECKING:
    from orchestrator.context import Context

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
RECORD = "training.json"
POLL_S = 2.0
TRAIN_START_S = 60.0
"""How long Ray Train waits for room before it counts that as a failure of its controller."""
MAX_FAILURES = 3
"""How often the workers of a student, or who leads them, are started again before the run gives up."""


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
        "code": factories.digest(model.factory, model.folder),
        "model": model.model_dump(mode="json", exclude={"folder"}),
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
    held = _held_by_a_worker(job.workers[1], machines.of("student")) | machines.asked("student")
    work = WorkerJob(
        role=job.role,
        model=job.model,
        training=job.training,
        seed=job.seed,
        data=run.data,
        folder=place,
        weights=member.weights,
        threads=threads_of_a_worker(job.workers[1], machines.of("student")),
        heard=run.journal.queue,
        store=job.store,
        loss=job.loss,
        run=run.config.name,
    )
    history = _fit(run, work, job.workers, held, f"checkpoints-{begun[:12]}")
    _record(member, mark(job.store_content()), history, begun)
    return Trained(member, history, reused=False)


def threads_of_a_worker(most: int, machines: Machines) -> int:
    """A worker's share of the cores of its node."""
    per_node = math.ceil(most / len(machines.nodes))
    return max(1, int(machines.cpus / len(machines.nodes) / per_node))


def _held_by_a_worker(most: int, machines: Machines) -> dict[str, float]:
    if machines.cuda:
        return {"CPU": min(1.0, machines.cpus / (2 * most)), "GPU": 1.0}
    return {"CPU": 0.01}  # of cores it takes what teachers leave, whatever those hold


def _fit(run: Context, work: WorkerJob, workers: tuple[int, int], held: dict[str, float], name: str) -> list[Epoch]:
    """Train, and clear away what was only needed to resume."""
    (least, most), folder, timeout_s = workers, work.folder, run.config.ensemble.start_timeout_s
    who = f"workers of the {work.role}"
    with room.reserved(who, held, least, timeout_s, run.journal.note):
        pass  # room was there: Ray Train, which takes it again, says nothing while it waits
    scaling = ray.train.ScalingConfig(
        num_workers=most if least == most else workers,  # type: ignore[arg-type]  # the stub is of Train V1
        use_gpu="GPU" in held,
        resources_per_worker=held,
        placement_strategy="PACK" if "GPU" in held else "SPREAD",
    )
    failure = storage.join(folder, FAILURE)
    storage.remove(failure)
    fs, path = storage.filesystem(folder)
    remote = None if storage.is_local(folder) else PyFileSystem(FSSpecHandler(fs))
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"job": work},
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=remote,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]  # the stub is of Train V1
                max_failures=MAX_FAILURES, controller_failure_limit=math.ceil(timeout_s / TRAIN_START_S)
            ),
        ),
    )
    ended: Exception | None = None
    for _ in range(1 + MAX_FAILURES):
        try:
            with _own_interrupts():
                trainer.fit()
            ended = None
        except ray.exceptions.RayActorError as error:  # Ray Train's own controller is gone; another goes on
            logger.warning("training the %s: %s; begun again where it was", work.role, type(error).__name__)
            ended = error
            continue
        except Exception as error:
            ended = error
        break
    if storage.exists(failure):
        said = json.loads(storage.read_text(failure))
        storage.remove(failure)
        raise (
            RunError(said["message"])
            if said["ours"]
            else cluster.failed(f"training the {work.role}", said["kind"], said["message"])
        )
    if ended is not None:
        failures = getattr(ended, "worker_failures", None)  # what went wrong, by rank
        reason = next(iter(failures.values())) if failures else ended
        refused = getattr(ended, "controller_failure", None)
        if type(refused).__name__ == "WorkerGroupStartupTimeoutError":  # again and again
            raise Waiting(f"{who}: {least} times {amounts(held)}", timeout_s, run.journal.note).given_up() from ended
        raise cluster.as_run_error(f"training the {work.role}", reason) from ended
    history = json.loads(storage.read_text(storage.join(folder, HISTORY)))
    storage.remove(storage.join(folder, name))
    storage.remove(storage.join(folder, HISTORY))
    return [Epoch(**epoch) for epoch in history]


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ray Train handles Ctrl-C while it trains, and would afterwards: give it back, as the interruption that it is."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


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
