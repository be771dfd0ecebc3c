"""Training of every network: members as Ray tasks side by side, baseline and student by Ray Train.

A trained network is stored under its cache key, a digest of all its inputs. So another recipe never overwrites it, and
the earlier recipe finds it again. `members/<i>`, `baseline` and `student` are copies of the current ones.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import errors
from orchestrator.cluster.tasks import Task
from orchestrator.config.ensemble import MemberGroup
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import ray_train, trained
from orchestrator.stages.fitters import FITTERS, StudentJob
from orchestrator.stages.ray_tasks import run_tasks
from orchestrator.stages.trained import Trained
from workers import processes, storage
from workers.artifacts import catalogue
from workers.artifacts.catalogue import Found
from workers.artifacts.key import Key
from workers.artifacts.kinds import NETWORK
from workers.data import sampling
from workers.data.dataset import Dataset
from workers.data.examples import has_texts
from workers.inference import teacher
from workers.inference.saved_weights import check_elsewhere
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.models import provenance as model_provenance
from workers.seeds import seed_of
from workers.specs.models import AnyModel
from workers.specs.training import AnyTraining
from workers.training import objective

if TYPE_CHECKING:
    from orchestrator.stages.context import Context

logger = logging.getLogger(__name__)


def key_of(model: AnyModel, training: AnyTraining, seed: int, **also: Any) -> Key:
    """The cache key of a trained network, from all its inputs, including the user's code that builds and fits it."""
    how = model_provenance.of_training(model, training)
    return NETWORK.key(**model_provenance.of_model(model), training=how, seed=seed, **also)


@dataclass(frozen=True)
class _Planned:
    """A member to train. initial: URI of its initial weights; None: random ones. after: the member that writes them,
    where the run trains it."""

    member: Member
    group: MemberGroup
    key: Key
    initial: str | None
    after: str


def _planned(run: Context, groups: Mapping[int, MemberGroup]) -> dict[int, _Planned]:
    """The members to train, with the keys and places of their weights, by number.

    The key of a member contains the key of the member that it begins from, so all keys are known before any training.
    """
    ensemble, folder = run.config.ensemble, RunFolder(run.config.folder)
    begins, given = ensemble.begins(run.plan.teachers.size), ensemble.given()
    found: dict[int, _Planned] = {}
    for k, group in sorted(groups.items()):  # a member begins from an earlier one
        source = begins.get(k, k)
        also: Key | str | None
        initial: str | None
        if source in found:
            before = found[source]
            also, initial, after = before.key, before.member.weights, before.member.name
        else:
            initial, after = given.get(source, group.initial_file), ""
            also = None if initial is None else checkpoints.sha256(initial)
        key = _of_member(run, group, k, {} if also is None else {"initial": also})
        weights = storage.join(folder.network(key.digest), group.model.weights_name)
        found[k] = _Planned(Member(f"member-{k}", group.model, weights), group, key, initial, after)
    return found


def _of_member(run: Context, group: MemberGroup, k: int, begun: Mapping[str, Any]) -> Key:
    """The key of member k. begun: what it begins from."""
    digests = run.dataset.digests
    data = {name: digests[name] for name in ("train", "validation")}
    assert group.training is not None
    also = {**sampling.determining(group.sample, run.dataset), **_of_kind(run, group.model), **begun}
    return key_of(group.model, group.training, seed_of(run.config.seed, "member", k), data=data, **also)


def _of_kind(run: Context, model: AnyModel) -> dict[str, Any]:
    """What some keys have besides. Of an estimator: as many outputs as the data have classes, whatever labels it sees.
    Of a network of texts: earlier versions of Stillhouse grouped its batches by the first tokenizer of the run."""
    if model.learner == "estimator":
        return {"classes": run.dataset.classes}
    return {"batches": "by own tokens"} if has_texts(run.dataset.train.x) else {}


def _task(run: Context, planned: _Planned) -> Task:
    """The Ray task that trains a member."""
    placement, (member, group) = run.plan.teachers, (planned.member, planned.group)
    assert group.training is not None and group.model.learner is not None
    fitter = FITTERS[group.model.learner]
    job = fitter.job(
        member,
        group.training,
        planned.key.what["seed"],
        planned.key.digest,
        placement.threads,
        sample=group.sample,
        initial=planned.initial,
        on=placement.device,
    )
    return Task(
        member.name,
        fitter.member,
        (job, run.data, run.heartbeat.queue),
        placement,
        f"training {member.name}",
        f"train {member.name}",
        after=planned.after,
    )


def train_members(run: Context, groups: Mapping[int, MemberGroup], done: Container[int] = ()) -> dict[int, Trained]:
    """Train members with separate seeds, as many at a time as the cluster can hold; returns them by number.

    groups: of each member to train. A member that begins from another's weights is trained after it. done: members that
    are trained already, from whose weights others may begin.

    The run kills a hung training, and Ray restarts its task. A training that raises resumes after its last epoch in a
    fresh process.
    Raises: `RunError` where the cluster lacks resources for any of them within `ensemble.start_timeout_s`, and where
    one raises in the same epoch again.
    """
    folder = RunFolder(run.config.folder)
    found: dict[int, Trained] = {}
    planned = {k: each for k, each in _planned(run, groups).items() if k not in done}
    had = run.artifacts.obtain_all((each.key, paths.network) for each in planned.values())
    changes: list[str] = []
    missing: dict[str, int] = {}
    for (k, each), earlier in zip(planned.items(), had, strict=True):
        if earlier is not None:
            found[k] = _reused(run, each.member, earlier)
            continue
        changes.append(trained.changes(folder.shown(each.member.name), each.key))
        missing[each.member.name] = k
    _remove_states(each.member for each in found.values())
    tasks = [_task(run, planned[k]) for k in missing.values()]
    run.note(catalogue.note("members", had))
    _again(run, "members", changes)

    def end_hung(task: Task) -> None:
        where = run.heartbeat.hung(task.name)
        if where is not None:
            processes.end(where)

    with run_tasks(run, "members in training", tasks, end_hung) as ended:
        for task, history in ended:
            k = missing[task.name]
            member, key = planned[k].member, planned[k].key
            try:
                check_elsewhere(member, run.dataset.validation.x)
                trained.commit(run.artifacts, member, key, history)
                trained.show(member, folder.shown(member.name))
                _remove_states([member])
            except Exception as error:  # of any storage
                raise errors.as_run_error(task.doing, error) from error
            found[k] = Trained(member, history, reused=False)
    return dict(sorted(found.items()))


def _remove_states(members: Iterable[Member]) -> None:
    """Remove the states from which trainings resume, in parallel; also where a run was killed after the last epoch."""
    states = [storage.join(storage.parent(member.weights), checkpoints.STATE) for member in members]
    with ThreadPoolExecutor(catalogue.AT_ONCE) as threads:
        list(threads.map(storage.remove, states))


def train_student(run: Context, job: StudentJob) -> Trained:
    """Train baseline or student by the fitter of its kind of model.

    Raises: `RunError` where the cluster lacks resources for it within `ensemble.start_timeout_s`.
    """
    folder, key = RunFolder(run.config.folder), _of_student(run, job)
    weights = storage.join(folder.network(key.digest), job.model.weights_name)
    member, place = Member(job.role, job.model, weights), folder.shown(job.role)
    on_its_way = job.store is not None and job.store.coming
    if not on_its_way or run.artifacts.lists(key):  # a cached student may match, so wait for the content
        found = run.artifacts.obtain(key, paths.network, content=job.store_content())
        if found is not None:
            run.note(catalogue.note(f"the {job.role}", [found]))
            storage.remove(folder.checkpoints(job.role, key.digest))  # of a run that was killed before it did
            return _reused(run, member, found)
    _again(run, f"the {job.role}", [trained.changes(place, key)])
    resumed = key.with_also(fewer=list(job.store_fewer)) if job.store_fewer else key
    name = posixpath.basename(folder.checkpoints(job.role, resumed.digest))
    assert job.model.learner is not None
    history = FITTERS[job.model.learner].student(run, job, member, place, name)
    check_elsewhere(member, run.dataset.validation.x)
    trained.commit(run.artifacts, member, key, history, content=job.store_content())
    trained.show(member, place)
    ray_train.clear(place, name)
    return Trained(member, history, reused=False)


def _of_student(run: Context, job: StudentJob) -> Key:
    """The cache key of baseline or student, from inputs that are known before the soft targets are complete."""
    also: dict[str, Any] = {} if job.initial is None else {"initial": checkpoints.sha256(job.initial)}
    also |= _of_kind(run, job.model)
    if job.layers_of is not None:
        also["initial"] = {"layers_of": teacher.follows_from(job.layers_of)}
    if job.beside is not None:
        also["beside"] = {**teacher.follows_from(job.beside.member), "precision": job.beside.precision}
    return key_of(
        job.model,
        job.training,
        job.seed,
        **_learnt_from(run.dataset, job),
        soft_targets=job.store_key or "",
        distillation=objective.follows_from(job.loss),
        **also,
    )


def _learnt_from(dataset: Dataset, job: StudentJob) -> dict[str, Any]:
    """The examples' part of the key of baseline or student. A stage with data of its own sees none of the training
    split, nor what is made of it."""
    digests = dataset.digests
    if job.split:
        return {"data": {name: digests[name] for name in (job.split, "validation")}, "augmentation": {}}
    data = {name: digests[name] for name in ("train", "validation")}  # the transfer set is in the soft targets
    augmentation = dataset.augmentation if job.store_key else dataset.baseline_augmentation
    without = {"without": dataset.without} if dataset.without else {}
    return {"data": data, "augmentation": augmentation, **dataset.share, **without}


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
