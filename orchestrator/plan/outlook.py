"""What a run will take: seconds, machine hours, bytes and memory of each stage, from its plan and its rates. Pure.

Nothing is reused in it: an outlook is that of a first run. Its repetitions and further students are added by `whole`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.cluster import resources
from orchestrator.cluster.resources import Machines
from orchestrator.config.ensemble import EnsembleSpec, MemberGroup
from orchestrator.config.run_config import STUDENT, RunConfig
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.plan import Plan
from orchestrator.plan.rates import BACKWARD, Rates, TrainingRate, units
from orchestrator.plan.workload import Workload
from workers import storage
from workers.models.profile import Profile
from workers.specs.training import AnyTraining
from workers.training.loader import CACHE_BYTES

DRIVER_BYTES_S = 1.0e9
"""Bytes of teachers' outputs that one process adds in a second, and that reach it from others."""
STORE_BYTES_S = 2.0e8
"""Bytes of soft targets that one process compresses and writes in a second."""
READ_BYTES_S = 5.0e8
"""Bytes of soft targets that a student's worker reads and verifies in a second, while it trains on those before."""
ORDER_BYTES = 8
"""Memory of a process for each example in the random order of a data set."""
RUNTIME_BYTES = 2**29
"""Memory of a Python process with torch, before it loads anything."""
TRAINED = 4
"""Copies of the weights in a training: with gradient and the optimizer's two moments."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage, by the name that it has in the report.

    where: the processes. seconds: from its start to its end. core_hours, gpu_hours: of computing epochs or parts, as
    the report counts them. moved: bytes between processes. stored: bytes that it leaves in storage. memory: bytes of
    one process; on a GPU, of the GPU.
    """

    name: str
    where: str
    seconds: float
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    moved: int = 0
    stored: int = 0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A planned run.

    seconds: of all stages, of which the pass and the student may overlap. pass_seconds: of the teachers' pass, from its
    first piece to its last part. soft_targets: bytes of the store.
    """

    stages: tuple[PlannedStage, ...]
    seconds: float
    pass_seconds: float
    soft_targets: int
    bound_by: str
    price: float | None

    @property
    def stored(self) -> int:
        """Bytes in storage."""
        return sum(each.stored for each in self.stages)

    @property
    def moved(self) -> int:
        """Bytes between processes."""
        return sum(each.moved for each in self.stages)

    @property
    def core_hours(self) -> float:
        return sum(each.core_hours for each in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(each.gpu_hours for each in self.stages)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything that an outlook follows from, but the rates. profiles: of the models, by their configuration keys."""

    config: RunConfig
    facts: Facts
    plan: Plan
    work: Workload
    profiles: Mapping[str, Profile | None]

    @property
    def data(self) -> DataFacts:
        return self.facts.data

    @property
    def machines(self) -> Machines:
        return self.facts.machines


def outlook(case: Case, rates: Rates) -> Outlook:
    """The outlook of a run. Its stages are in the order of the run."""
    made = _soft_targets(case, rates)
    student = _student(case, rates)
    pass_s = made.seconds - rates.pass_start_s
    trained_s = sum(each.seconds for each in student)
    stages = (*_tokens(case, rates), *_members(case, rates), _predictions(case, rates))
    stages += (_baseline(case, rates), made, *student, _evaluation(case, rates))
    seconds = sum(each.seconds for each in stages)
    if case.plan.streams:
        seconds -= min(made.seconds, trained_s)
    teachers_s, driver_s = _pass(case, rates)
    bound_by = "student" if trained_s > pass_s else "teacher" if teachers_s >= driver_s else "driver"
    return Outlook(
        stages=stages,
        seconds=seconds,
        pass_seconds=pass_s,
        soft_targets=case.plan.sizes.soft_targets,
        bound_by=bound_by,
        price=case.config.report.price((each.core_hours, each.gpu_hours) for each in stages),
    )


def makespan(durations: Sequence[float], slots: int, after: Mapping[int, int] | None = None) -> float:
    """When the last of these tasks ends, if so many run at a time, in the order in which they can begin.

    after: the task that has to end before another begins, by the number of that one.
    """
    after = after or {}
    free = [0.0] * max(1, min(slots, len(durations)))
    ready = [(0.0, k) for k in range(len(durations)) if k not in after]
    while ready:
        since, k = heapq.heappop(ready)
        end = max(free[0], since) + durations[k]
        heapq.heapreplace(free, end)
        for waiting in (other for other, source in after.items() if source == k):
            heapq.heappush(ready, (end, waiting))
    return max(free)


def trained_after(ensemble: EnsembleSpec, seconds: Mapping[int, float], slots: int) -> float:
    """When the last of these members is trained, some of which begin from others. seconds: of each, by its number."""
    numbers = sorted(seconds)
    begins = ensemble.begins(max(numbers, default=0) + 1)
    after = {
        k: numbers.index(begins[number]) for k, number in enumerate(numbers) if begins.get(number) in seconds
    }  # the others begin from weights that exist
    return makespan([seconds[number] for number in numbers], slots, after)


def _tokens(case: Case, rates: Rates) -> tuple[PlannedStage, ...]:
    if not rates.tokens_s:
        return ()
    return (PlannedStage(name="tokens", where="tasks", seconds=rates.tokens_s * case.work.tokenized),)


def _members(case: Case, rates: Rates) -> tuple[PlannedStage, ...]:
    """The training of members; no stage where all are loaded.

    Ray reuses the processes of tasks, so that only the first of each starts one; with GPUs each task does.
    """
    plan, work = case.plan, case.work
    anew = bool(plan.teachers.num_gpus)
    start_s = 0.0 if anew else max((rate.start_s for rate in rates.members if rate is not None), default=0.0)
    firsts = case.config.ensemble.firsts()
    trained = {
        first + k: (key, group.training, _task_s(rate, group.training, work, anew=anew))
        for (key, group, count), first, rate in zip(_groups(case), firsts, rates.members, strict=True)
        if rate is not None and group.training is not None
        for k in range(count)
    }
    if not trained:
        return ()
    slots = resources.at_once(plan.teachers, case.machines)
    hours = sum(seconds for _, _, seconds in trained.values()) / 3600
    most = min(slots, case.config.ensemble.most_at_once(plan.teachers.size))
    return (
        PlannedStage(
            name="members",
            where=f"{_count(len(trained), 'task')}, {most} at a time, {_each(case)}",
            seconds=start_s + trained_after(case.config.ensemble, {k: each[2] for k, each in trained.items()}, slots),
            core_hours=hours * plan.teachers.num_cpus,
            gpu_hours=hours * plan.teachers.num_gpus,
            stored=sum(_kept(case, key) for key, _, _ in trained.values()),
            memory=max(_training_bytes(case, key, training, 1) for key, training, _ in trained.values()),
        ),
    )


def _task_s(rate: TrainingRate, training: AnyTraining, work: Workload, *, anew: bool) -> float:
    """Seconds of a member's task. anew: whether it starts a process."""
    seconds = rate.seconds(training.epochs, work.train, work.validation)
    return seconds if anew else seconds - rate.start_s


def _groups(case: Case) -> list[tuple[str, MemberGroup, int]]:
    """Each group of members, with its key and its number of members."""
    ensemble = case.config.ensemble
    counts = [case.plan.teachers.size] if len(ensemble.groups) == 1 else [group.count for group in ensemble.groups]
    return list(zip(ensemble.keys(), ensemble.groups, counts, strict=True))


def _predictions(case: Case, rates: Rates) -> PlannedStage:
    work, plan, members = case.work, case.plan, case.plan.teachers.size
    slots = min(members, resources.at_once(plan.teachers, case.machines))
    seconds = (work.validation + work.test) * members * rates.forward_s / slots
    row = round(4 * case.data.classes * case.data.positions)
    return PlannedStage(
        name="predictions",
        where=f"{slots} at a time, {_each(case)}",
        seconds=rates.predictions_s + seconds,
        stored=(work.validation + work.test) * members * row,
    )


def _baseline(case: Case, rates: Rates) -> PlannedStage:
    recipe = case.config.student.baseline_recipe
    return _training(case, "baseline", _on_workers(case, rates, rates.baseline), recipe, case.work.lessons)


def _student(case: Case, rates: Rates) -> list[PlannedStage]:
    """Every stage of the student. It reads soft targets once, and in each epoch those that its cache does not hold."""
    work, found = case.work, []
    for stage, rate in zip(case.config.training_stages, rates.student, strict=True):
        examples, read = (work.of_stages[stage.data], 0) if stage.data else (work.transfer, read_bytes(case))
        training = _on_workers(case, rates, rate)
        found.append(_training(case, stage.system, training, stage.training, examples, read=read))
    return found


def read_bytes(case: Case) -> int:
    """Bytes that a worker of the student reads for an epoch: soft targets of one view, or with a schedule of T the
    logits of all members."""
    sizes = case.plan.sizes
    return (sizes.logits if case.config.distillation.is_scheduled else sizes.soft_targets) // case.work.views


def epoch_s(case: Case, rates: Rates) -> float:
    """Seconds that an epoch of the student computes, in its last stage that learns from soft targets; 0 without one."""
    stages = zip(case.config.training_stages, rates.student, strict=True)
    of_targets = [_on_workers(case, rates, rate) for stage, rate in stages if not stage.data]
    return of_targets[-1].epoch_s(case.work.transfer, case.work.validation) if of_targets else 0.0


def _training(
    case: Case, name: str, rate: TrainingRate, training: AnyTraining, examples: int, *, read: int = 0
) -> PlannedStage:
    """The training of baseline or student. read: bytes that a worker reads for an epoch, while it computes."""
    plan, views = case.plan.student, case.work.views
    epoch_s = rate.epoch_s(examples, case.work.validation)
    if training.batch_size is None:  # an estimator, which learns from every view at once
        reading = views
    else:
        reading = min(training.epochs, views) if read * views <= CACHE_BYTES else training.epochs
    epochs_s = training.epochs * epoch_s + reading * max(0.0, read / READ_BYTES_S - epoch_s)
    device = f"{plan.held['GPU']:g} GPU" if plan.gpus else f"{_count(plan.threads, 'thread')}"
    return PlannedStage(
        name=name,
        where=f"{_count(plan.most, 'worker')}, {device} each",
        seconds=rate.start_s + epochs_s,
        core_hours=epochs_s * plan.cores / 3600,
        gpu_hours=epochs_s * plan.gpus / 3600,
        moved=read * reading * plan.most,
        stored=_kept(case, "student", packaged=name == STUDENT),
        memory=_training_bytes(case, "student", training, plan.most) + (case.plan.sizes.held_by_worker if read else 0),
    )


def _on_workers(case: Case, rates: Rates, rate: TrainingRate) -> TrainingRate:
    """A rate of the student's workers, if its examples take less time on more of them."""
    return replace(rate, example_s=rate.example_s * rates.student_units / units(case.plan))


def _pass(case: Case, rates: Rates) -> tuple[float, float]:
    """Seconds that the teachers compute, and that their outputs are added and stored."""
    plan, rows = case.plan, case.work.transfer * case.work.views
    largest = max(len(group) for group in plan.teachers.groups())
    adding = 1 if not plan.reduces_on_workers else plan.teachers.actors
    added_s = rows * plan.sizes.answers * plan.teachers.actors / DRIVER_BYTES_S
    stored_s = (plan.sizes.soft_targets + plan.sizes.logits) / STORE_BYTES_S
    return rows * largest * rates.forward_s, (added_s + stored_s) / adding


def _soft_targets(case: Case, rates: Rates) -> PlannedStage:
    plan, rows = case.plan, case.work.transfer * case.work.views
    teachers = plan.teachers
    largest = max(len(group) for group in teachers.groups())
    seconds = max(_pass(case, rates))
    hours = seconds * teachers.actors / 3600
    held = max(_weights(case, key) for key, _, _ in _groups(case)) * largest
    answered = 2 * round(plan.layout.piece * plan.sizes.answers)
    return PlannedStage(
        name="soft targets",
        where=f"{_count(teachers.actors, 'actor')} of {_count(largest, 'member')}, {_each(case)}; "
        + ("reduced by the actors" if plan.reduces_on_workers else "reduced by the driver"),
        seconds=rates.pass_start_s + seconds,
        core_hours=hours * teachers.num_cpus,
        gpu_hours=hours * teachers.num_gpus,
        moved=rows * plan.sizes.answers * teachers.actors,
        stored=plan.sizes.soft_targets + plan.sizes.logits,
        memory=held + answered + (0 if plan.device == "cuda" else RUNTIME_BYTES + order_bytes(case)),
    )


def _evaluation(case: Case, rates: Rates) -> PlannedStage:
    row = round(4 * case.data.classes * case.data.positions)
    predicted = 2 * case.work.test
    if case.config.evaluation.corrected_classes:  # predicted on the training split, too, and kept once more of test
        predicted += case.work.train
        kept = predicted + case.work.test
    else:
        kept = predicted
    seconds = predicted * rates.baseline.example_s / BACKWARD
    return PlannedStage(
        name="evaluation",
        where="1 task at a time",
        seconds=rates.evaluation_s + seconds,
        stored=kept * row,
    )


def _weights(case: Case, key: str) -> int:
    """Bytes of a model's weights; 0 where they are unknown."""
    found = case.profiles[f"{key}.model"]
    return 0 if found is None else found.weight_bytes


def _kept(case: Case, key: str, *, packaged: bool = False) -> int:
    """Bytes in storage of a trained network, and of the copy of it that the run shows.

    On a disk that copy is a hard link, which takes nothing; an object store has no links. packaged: whether there is a
    package for MLflow, too.
    """
    shown = 0 if storage.is_local(case.config.storage) else 1
    package = int(packaged and case.config.tracking.registered_model is not False)
    return (1 + shown + package) * _weights(case, key)


def _training_bytes(case: Case, key: str, training: AnyTraining, workers: int) -> int:
    """Memory of one process of a training: weights with gradient and moments, and what a piece of a batch keeps."""
    found = case.profiles[f"{key}.model"]
    if found is None or training.batch_size is None:
        return RUNTIME_BYTES
    piece = min(training.micro_batch_size or training.batch_size, -(-training.batch_size // workers))
    on_gpu = bool(case.plan.student.gpus) if key == "student" else case.plan.device == "cuda"
    return round(TRAINED * found.weight_bytes + piece * found.activation_bytes) + (
        0 if on_gpu else RUNTIME_BYTES + order_bytes(case)
    )


def order_bytes(case: Case) -> int:
    """Main memory of a process for the random order of the transfer set."""
    return ORDER_BYTES * case.work.transfer


def _each(case: Case) -> str:
    teachers = case.plan.teachers
    gpus = f" and {teachers.num_gpus:g} GPU" if teachers.num_gpus else ""
    return f"{teachers.num_cpus:g} CPU{gpus} each"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
