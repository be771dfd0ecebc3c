"""Training of every network: members as Ray tasks side by side, baseline and student by Ray Train.

A trained network is stored under its cache key, a digest of all its inputs. So another recipe never overwrites it, and
the earlier recipe finds it again. `members/<i>`, `baseline` and `student` are copies of the current ones.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import errors
from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.cluster.tasks import Task, completed
from orchestrator.config.schema import MemberGroup
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import ray_train, trained
from orchestrator.stages.fitters import FITTERS, StudentJob
from orchestrator.stages.trained import Trained
from workers import processes, storage
from workers.artifacts import catalogue
from workers.artifacts.catalogue import Found
from workers.artifacts.key import Key
from workers.artifacts.kinds import NETWORK
from workers.inference import teacher
from workers.inference.kept import check_elsewhere
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.models import provenance as model_provenance
from workers.models.torch_module import seed_of
from workers.specs import AnyModel, AnyTraining, Learner
from workers.training import objective
from workers.training.fit_tasks import fit_member
from workers.training.tasks import MemberJob, train_member

if TYPE_CHECKING:
    from orchestrator.stages.context import Context

logger = logging.getLogger(__name__)


JOBS: Mapping[Learner, Any] = {"network": train_member, "estimator": fit_member}
"""Ray tasks that train a member, by learner."""


def key_of(model: AnyModel, training: AnyTraining, seed: int, **also: Any) -> Key:
    """The cache key of a trained network, from all its inputs, including the code of its factory."""
    return NETWORK.key(**model_provenance.of_model(model), training=training.determining(model), seed=seed, **also)


def _of_member(run: Context, group: MemberGroup, k: int) -> Key:
    """The key of member k."""
    digests = run.dataset.digests
    data = {name: digests[name] for name in ("train", "validation")}
    assert group.training is not None
    return key_of(group.model, group.training, seed_of(run.config.seed, "member", k), data=data)


def train_members(run: Context, groups: Mapping[int, MemberGroup]) -> dict[int, Trained]:
    """Train members with separate seeds, as many at a time as the cluster can hold; returns them by number.

    groups: of each member to train.

    The run kills a hung training, and Ray restarts its task. A training that raises resumes after its last epoch in a
    fresh process.
    Raises: `RunError` where the cluster has no room for any of them within `ensemble.start_timeout_s`, and where one
    raises in the same epoch again.
    """
    placement, folder = run.plan.teachers, RunFolder(run.config.folder)
    found: dict[int, Trained] = {}
    keys = {k: _of_member(run, group, k) for k, group in groups.items()}
    had = run.artifacts.obtain_all((key, paths.network) for key in keys.values())
    changes: list[str] = []
    missing: dict[str, tuple[int, Member, Key]] = {}
    tasks: list[Task] = []
    for (k, key), earlier in zip(keys.items(), had, strict=True):
        model, training = groups[k].model, groups[k].training
        weights = storage.join(folder.network(key.digest), model.weights_name)
        member = Member(f"member-{k}", model, weights)
        if earlier is not None:
            found[k] = _reused(run, member, earlier)
            continue
        changes.append(trained.changes(folder.shown(member.name), key))
        assert training is not None
        job = MemberJob(member, training, key.what["seed"], key.digest, placement.threads)
        arguments = (job, run.data, run.heartbeat.queue)
        doing, title = f"training {member.name}", f"train {member.name}"
        assert model.learner is not None
        tasks.append(Task(member.name, JOBS[model.learner], arguments, placement, doing, title))
        missing[member.name] = k, member, key
    run.note(catalogue.note("members", had))
    _again(run, "members", changes)
    need = Need("members in training", len(tasks), placement.held, placement.held)
    waiting = Waiting(need, run.config.ensemble.start_timeout_s, run.events.note, least=1)

    def end_hung(task: Task) -> None:
        where = run.heartbeat.hung(task.name)
        if where is not None:
            processes.end(where)

    # Tasks of a Ray that the run started end with this process. Ray 2.60 may crash if a cancelled task ends meanwhile.
    with closing(completed(tasks, waiting, run.heartbeat, end_hung, cancel=run.machines.borrowed)) as ended:
        for task, history in ended:
            k, member, key = missing[task.name]
            try:
                check_elsewhere(member, run.dataset.validation.x)
                trained.commit(run.artifacts, member, key, history)
                trained.show(member, folder.shown(member.name))
                storage.remove(storage.join(storage.parent(member.weights), checkpoints.STATE))
            except Exception as error:  # of any storage
                raise errors.as_run_error(task.doing, error) from error
            found[k] = Trained(member, history, reused=False)
    return dict(sorted(found.items()))


def train_student(run: Context, job: StudentJob) -> Trained:
    """Train baseline or student by the fitter of its kind of model.

    Raises: `RunError` where the cluster has no room for it within `ensemble.start_timeout_s`.
    """
    folder, key = RunFolder(run.config.folder), _of_student(run, job)
    weights = storage.join(folder.network(key.digest), job.model.weights_name)
    member, place = Member(job.role, job.model, weights), folder.shown(job.role)
    on_its_way = job.store is not None and job.store.coming
    if not on_its_way or run.artifacts.lists(key):  # a cached student may match, so wait for the content
        found = run.artifacts.obtain(key, paths.network, content=job.store_content())
        if found is not None:
            run.note(catalogue.note(f"the {job.role}", [found]))
            return _reused(run, member, found)
    _again(run, f"the {job.role}", [trained.changes(place, key)])
    name = folder.checkpoints(job.role, key.digest).rsplit("/", 1)[1]
    assert job.model.learner is not None
    history = FITTERS[job.model.learner](run, job, member, place, name)
    check_elsewhere(member, run.dataset.validation.x)
    trained.commit(run.artifacts, member, key, history, content=job.store_content())
    trained.show(member, place)
    ray_train.clear(place, name)
    return Trained(member, history, reused=False)


def _of_student(run: Context, job: StudentJob) -> Key:
    """The cache key of baseline or student, from inputs that are known before the soft targets are complete."""
    digests = run.dataset.digests
    splits = ["train", "validation", *([job.data] if job.data else [])]
    also: dict[str, Any] = {} if job.initial is None else {"initial": checkpoints.sha256(job.initial)}
    if run.dataset.without:
        also["without"] = run.dataset.without
    if job.layers_of is not None:
        also["initial"] = {"layers_of": teacher.follows_from(job.layers_of)}
    if job.beside is not None:
        also["beside"] = {**teacher.follows_from(job.beside.member), "precision": job.beside.precision}
    return key_of(
        job.model,
        job.training,
        job.seed,
        data={name: digests[name] for name in splits},  # the transfer set is in the soft targets
        augmentation=run.dataset.augmentation,
        soft_targets=job.store_key or "",
        distillation=objective.follows_from(job.loss),
        **also,
    )


def _again(run: Context, name: str, changes: Sequence[str]) -> None:
    """Note which inputs changed, before a complete network is trained again."""
    known = [change for change in changes if change]
    if known:
        several = f" ({len(known)} of {len(changes)})" if len(changes) > 1 else ""
        verb = "are" if len(changes) > 1 else "is"
        run.events.note(
            f"{name} {verb} trained again{several}: {known[0]}. The earlier weights stay in "
            f"'{RunFolder(run.config.folder).trained}'."
        )


def _reused(run: Context, member: Member, found: Found) -> Trained:
    """Reuse a network of an earlier run, and copy it to the user's folder."""
    trained.show(member, RunFolder(run.config.folder).shown(member.name))
    other = trained.other_versions(found.record)
    if other:
        run.events.note(f"{member.name} is reused although versions differ: {other}. --fresh trains it anew.")
    return Trained(member, trained.epochs(found.record), reused=True)
