"""Training of every network: members as Ray tasks side by side, baseline and student by Ray Train.

A trained network lies under its key, a digest of everything that it follows from, so another recipe never overwrites
it and the earlier recipe finds it again. `members/<i>`, `baseline` and `student` show the current ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import errors
from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.cluster.tasks import Task, completed
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import WEIGHTS, RunFolder
from orchestrator.stages import ray_train, trained
from orchestrator.stages.trained import Trained
from workers import processes, storage
from workers.artifacts import catalogue
from workers.artifacts.catalogue import Found
from workers.artifacts.key import Key
from workers.artifacts.kinds import NETWORK
from workers.evaluation.tasks import train_member
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.models.torch_module import seed_of
from workers.specs import DistillationSpec, ModelSpec, TrainingSpec
from workers.training import objective
from workers.training.loop import HARD_LABELS
from workers.training.ray_worker import Store, WorkerJob
from workers.trial import trial
from workers.user_code import provenance

if TYPE_CHECKING:
    from orchestrator.stages.context import Context

logger = logging.getLogger(__name__)


def key_of(model: ModelSpec, training: TrainingSpec, seed: int, **also: Any) -> Key:
    """Of a trained network: everything that it follows from, the code of its factory included."""
    return NETWORK.key(**provenance.of_model(model), training=training.model_dump(mode="json"), seed=seed, **also)


def _of_member(run: Context, training: TrainingSpec, k: int) -> Key:
    """The key of member k."""
    digests = run.dataset.digests
    data = {name: digests[name] for name in ("train", "validation")}
    return key_of(run.config.ensemble.model, training, seed_of(run.config.seed, "member", k), data=data)


def train_members(run: Context, training: TrainingSpec) -> list[Trained]:
    """The ensemble's members, each from a seed of its own, as many at a time as the cluster takes.

    Where one hangs its process is ended, and Ray begins its task again. One that raises goes on behind its last epoch
    in a fresh process.

    Raises: `RunError` where for `ensemble.start_timeout_s` the cluster has no room for any of them, and where one
    raises in the same epoch again.
    """
    placement, folder = run.placement, RunFolder(run.config.folder)
    found: dict[int, Trained] = {}
    keys = [_of_member(run, training, k) for k in range(placement.size)]
    had = run.artifacts.obtain_all((key, paths.network) for key in keys)
    changes: list[str] = []
    missing: dict[str, tuple[int, Member, Key]] = {}
    tasks: list[Task] = []
    for k, (key, earlier) in enumerate(zip(keys, had, strict=True)):
        weights = storage.join(folder.network(key.digest), WEIGHTS)
        member = Member(f"member-{k}", run.config.ensemble.model, weights)
        if earlier is not None:
            found[k] = _reused(run, member, earlier)
            continue
        changes.append(trained.changes(folder.shown(member.name), key))
        arguments = (member, training, key.what["seed"], key.digest, run.data, placement.threads, run.heartbeat.queue)
        doing, title = f"training {member.name}", f"train {member.name}"
        tasks.append(Task(member.name, train_member, arguments, placement, doing, title))
        missing[member.name] = k, member, key
    run.note(catalogue.note("members", had))
    _again(run, "members", changes)
    need = Need("members in training", len(tasks), placement.held, placement.held)
    waiting = Waiting(need, run.config.ensemble.start_timeout_s, run.events.note, least=1)

    def end_hung(task: Task) -> None:
        where = run.heartbeat.hung(task.name)
        if where is not None:
            processes.end(where)

    # Tasks of a Ray of our own end with this process; Ray 2.60 may crash where one ends as it is cancelled.
    with closing(completed(tasks, waiting, run.heartbeat, end_hung, cancel=run.machines.borrowed)) as ended:
        for task, history in ended:
            k, member, key = missing[task.name]
            try:
                trial.check_elsewhere(member, run.dataset.validation.x)
                trained.commit(run.artifacts, member, key, history)
                trained.show(member, folder.shown(member.name))
                storage.remove(storage.join(storage.parent(member.weights), checkpoints.STATE))
            except Exception as error:  # of any storage
                raise errors.as_run_error(task.doing, error) from error
            found[k] = Trained(member, history, reused=False)
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
    store_key: Key | None = None
    """What they follow from."""
    store_content: Callable[[], str] = str
    """sha256 over the soft targets themselves; waits until they are complete."""


def train_with_ray(run: Context, job: StudentJob) -> Trained:
    """Baseline or student by Ray Train: DDP over the workers, checkpoints in the run's storage, resumed from there.

    Raises: `RunError` where for `ensemble.start_timeout_s` the cluster has no room for the least of its workers.
    """
    folder, key = RunFolder(run.config.folder), _of_student(run, job)
    weights = storage.join(folder.network(key.digest), WEIGHTS)
    member, place = Member(job.role, job.model, weights), folder.shown(job.role)
    on_its_way = job.store is not None and job.store.coming
    if not on_its_way or run.artifacts.lists(key):  # it may still be right: worth a wait
        found = run.artifacts.obtain(key, paths.network, content=job.store_content())
        if found is not None:
            run.note(catalogue.note(f"the {job.role}", [found]))
            return _reused(run, member, found)
    _again(run, f"the {job.role}", [trained.changes(place, key)])
    work = WorkerJob(
        role=job.role,
        model=job.model,
        training=job.training,
        seed=job.seed,
        data=run.data,
        folder=place,
        weights=weights,
        threads=ray_train.threads_of_a_worker(job.workers[1], run.machines.of("student")),
        heard=run.heartbeat.queue,
        store=job.store,
        loss=job.loss,
        run=run.config.name,
    )
    name = folder.checkpoints(job.role, key.digest).rsplit("/", 1)[1]
    history = ray_train.fit(run, work, job.workers, name)
    trial.check_elsewhere(member, run.dataset.validation.x)
    trained.commit(run.artifacts, member, key, history, content=job.store_content())
    trained.show(member, place)
    ray_train.clear(place, name)
    return Trained(member, history, reused=False)


def _of_student(run: Context, job: StudentJob) -> Key:
    """The key of baseline or student: what is known before the soft targets are complete."""
    digests = run.dataset.digests
    return key_of(
        job.model,
        job.training,
        job.seed,
        data={name: digests[name] for name in ("train", "validation")},  # the transfer set is in the soft targets
        augmentation=run.dataset.augmentation,
        soft_targets=job.store_key or "",
        distillation=objective.follows_from(job.loss),
    )


def _again(run: Context, name: str, changes: Sequence[str]) -> None:
    """Tell the user which inputs changed, before a network that was complete is trained again."""
    known = [change for change in changes if change]
    if known:
        several = f" ({len(known)} of {len(changes)})" if len(changes) > 1 else ""
        verb = "are" if len(changes) > 1 else "is"
        run.events.note(
            f"{name} {verb} trained again{several}: {known[0]}. The earlier weights stay in "
            f"'{RunFolder(run.config.folder).trained}'."
        )


def _reused(run: Context, member: Member, found: Found) -> Trained:
    """A network of an earlier run, shown where users look."""
    trained.show(member, RunFolder(run.config.folder).shown(member.name))
    other = trained.other_versions(found.record)
    if other:
        run.events.note(f"{member.name} is reused although versions differ: {other}. --fresh trains it anew.")
    return Trained(member, trained.epochs(found.record), reused=True)
