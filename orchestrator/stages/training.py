"""Training of every network: members as Ray tasks side by side, baseline and student by Ray Train.

A trained network lies under its key, a digest of everything that it follows from, so another recipe never overwrites
it and the earlier recipe finds it again. `members/<i>`, `baseline` and `student` show the current ones.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import errors
from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.cluster.tasks import Task, completed
from orchestrator.config.run_config import MemberGroup
from orchestrator.run_folder import paths
from orchestrator.stages import ray_train, trained
from orchestrator.stages.fitters import FITTERS, StudentJob
from orchestrator.stages.trained import Record, Trained
from workers import processes, storage
from workers.evaluation.tasks import train_member
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.models.torch_module import seed_of
from workers.specs import AnyModel, AnyTraining, Learner
from workers.targets.soft_targets import fingerprint
from workers.training import objective
from workers.training.fit_tasks import fit_member
from workers.trial import trial
from workers.user_code import provenance

if TYPE_CHECKING:
    from orchestrator.stages.context import Context

logger = logging.getLogger(__name__)


JOBS: Mapping[Learner, Any] = {"network": train_member, "estimator": fit_member}
"""What trains a member, by how its kind of model learns."""


def follows_from(model: AnyModel, training: AnyTraining, seed: int, **also: Any) -> dict[str, Any]:
    """Everything that a trained network follows from, the code of its factory included, as plain JSON values."""
    return {
        **provenance.of_model(model),
        "training": training.model_dump(mode="json"),
        "seed": seed,
        **also,
    }


def _of_member(run: Context, group: MemberGroup, k: int) -> dict[str, Any]:
    """What member k follows from."""
    digests = run.dataset.digests
    data = {name: digests[name] for name in ("train", "validation")}
    assert group.training is not None
    return follows_from(group.model, group.training, seed_of(run.config.seed, "member", k), data=data)


def train_members(run: Context, groups: Mapping[int, MemberGroup]) -> dict[int, Trained]:
    """Members by their numbers, each from a seed of its own, as many at a time as the cluster takes.

    groups: of each member that is to be trained.

    Where one hangs its process is ended, and Ray begins its task again. One that raises goes on behind its last epoch
    in a fresh process.

    Raises: `RunError` where for `ensemble.start_timeout_s` the cluster has no room for any of them, and where one
    raises in the same epoch again.
    """
    placement = run.placement
    found: dict[int, Trained] = {}
    inputs = {k: _of_member(run, group, k) for k, group in groups.items()}
    places = {k: storage.join(run.config.folder, "members", str(k)) for k in groups}
    changes: list[str] = []
    missing: dict[str, tuple[int, Member, str]] = {}
    tasks: list[Task] = []
    for k, own in inputs.items():
        model, training = groups[k].model, groups[k].training
        weights = storage.join(trained.folder_of(run.config.folder, own), model.weights_name)
        member, mark = Member(f"member-{k}", model, weights), fingerprint(**own)
        record = trained.complete(member, mark)
        if record is not None:
            found[k] = _reused(run, member, record, places[k])
            continue
        changes.append(trained.changes(places[k], own))
        arguments = (member, training, own["seed"], mark, run.data, placement.threads, run.heartbeat.queue)
        doing, title = f"training {member.name}", f"train {member.name}"
        assert model.learner is not None
        tasks.append(Task(member.name, JOBS[model.learner], arguments, placement, doing, title))
        missing[member.name] = k, member, mark
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
            k, member, mark = missing[task.name]
            try:
                trial.check_elsewhere(member, run.dataset.validation.x)
                trained.record(member, mark, inputs[k], history)
                trained.show(member, places[k])
                storage.remove(storage.join(storage.parent(member.weights), checkpoints.STATE))
            except Exception as error:  # of any storage
                raise errors.as_run_error(task.doing, error) from error
            found[k] = Trained(member, history, reused=False)
    return dict(sorted(found.items()))


def train_student(run: Context, job: StudentJob) -> Trained:
    """Baseline or student, by the fitter of its kind of model.

    Raises: `RunError` where for `ensemble.start_timeout_s` the cluster has no room for it.
    """
    place = storage.join(run.config.folder, job.role)
    inputs = _of_student(run, job)
    weights = storage.join(trained.folder_of(run.config.folder, inputs), job.model.weights_name)
    member = Member(job.role, job.model, weights)

    def mark() -> str:
        """Of the content of the soft targets, too, once they are complete."""
        return fingerprint(**inputs, content=job.store_content())

    on_its_way = job.store is not None and job.store.coming
    if not on_its_way or trained.record_in(storage.parent(weights)) is not None:  # it may still be right: worth a wait
        record = trained.complete(member, mark())
        if record is not None:
            return _reused(run, member, record, place)
    _again(run, f"the {job.role}", [trained.changes(place, inputs)])
    name = f"checkpoints-{fingerprint(**inputs)}"
    assert job.model.learner is not None
    history = FITTERS[job.model.learner](run, job, member, place, name)
    trial.check_elsewhere(member, run.dataset.validation.x)
    trained.record(member, mark(), inputs, history)
    trained.show(member, place)
    ray_train.clear(place, name)
    return Trained(member, history, reused=False)


def _of_student(run: Context, job: StudentJob) -> dict[str, Any]:
    """What baseline or student follows from, as far as it is known before the soft targets are complete."""
    digests = run.dataset.digests
    return follows_from(
        job.model,
        job.training,
        job.seed,
        data={name: digests[name] for name in ("train", "validation")},  # the transfer set is in the soft targets
        augmentation=run.dataset.augmentation,
        soft_targets=job.store_mark,
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
            f"'{storage.join(run.config.folder, paths.TRAINED)}'."
        )


def _reused(run: Context, member: Member, found: Record, place: str) -> Trained:
    """A network of an earlier run, shown at `place`."""
    trained.show(member, place)
    other = trained.other_versions(found)
    if other:
        run.events.note(f"{member.name} is reused although versions differ: {other}. --fresh trains it anew.")
    return Trained(member, found.epochs(), reused=True)
