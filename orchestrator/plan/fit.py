"""What of a planned run does not fit: memory of nodes and GPUs, and storage. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.cluster import resources
from orchestrator.cluster.resources import Machines
from orchestrator.config.run_config import RunConfig
from orchestrator.plan.facts import DataFacts
from orchestrator.plan.outlook import RUNTIME_BYTES, Case, Outlook, PlannedStage, order_bytes
from orchestrator.plan.sizes import sizes
from orchestrator.plan.whole import Runs
from workers.data.memory import size

SCHEDULE = "distillation.temperature"


def misfits(runs: Runs, found: Outlook, free: int | None) -> Iterator[str]:
    """Each thing that does not fit, with the figures and a remedy.

    found: the outlook of all runs. free: bytes on the disk of the storage, if known.
    """
    lacking = of_storage(runs, found, free)
    if lacking:
        yield f"storage: {lacking}"
    yield from _of_order(runs.first.case)
    yield from _of_shared_memory(runs.first.case)
    for case, stage in _stages(runs):
        yield from _of_memory(case, stage)


def of_storage(runs: Runs, found: Outlook, free: int | None) -> str:
    """Why storage has too little space for all runs; empty where it has enough, or that is not known. As `misfits`."""
    if free is None or found.stored <= free:
        return ""
    largest = max(runs.first.outlook.stages, key=lambda each: each.stored)
    return (
        f"the run stores {size(found.stored)}, with {size(largest.stored)} for {largest.name}, and "
        f"'{runs.first.case.config.storage}' has {size(free)} free. Set `storage` to a larger one"
        + (", or `distillation.top_k`." if largest.name == "soft targets" else ".")
    )


def largest_in_memory(runs: Runs) -> tuple[str, int]:
    """The stage that takes most main memory on a node, and its bytes there."""
    return max(((stage.name, _on_node(case, stage)) for case, stage in _stages(runs)), key=lambda each: each[1])


def _stages(runs: Runs) -> Iterator[tuple[Case, PlannedStage]]:
    """Every stage of the first run, and of each further student those of its own, with the case of its run."""
    yield from ((runs.first.case, stage) for stage in runs.first.outlook.stages)
    for name, each in runs.students.items():
        yield from ((each.case, stage) for stage in each.own_stages(name))


def _of_order(case: Case) -> Iterator[str]:
    """A transfer set of more examples than a process can put in order."""
    needed, memory = order_bytes(case), case.machines.least_memory
    if memory and needed > memory:
        yield (
            f"data: the random order of {case.work.transfer:,} examples takes {size(needed)} in each process, and the "
            f"smallest node has {size(round(memory))}. Make examples longer and fewer, or take larger nodes."
        )


def _of_shared_memory(case: Case) -> Iterator[str]:
    """Data that are larger than Ray's shared memory, of a cluster of several nodes that runs.

    On a single node, processes map files, and Ray may have been started in place. Texts are left out: a run drops
    them before, unless a model takes texts or an example is augmented, which is not known here.
    """
    there, shared = case.machines.least_object_store, case.data.held - case.data.texts
    if there and shared > there and len(case.machines.nodes) > 1:
        yield (
            f"data: they take {size(shared)} of Ray's shared memory, and the smallest node has "
            f"{size(round(there))}. Start Ray with more (`--object-store-memory`), or take larger nodes."
        )


def _of_memory(case: Case, stage: PlannedStage) -> Iterator[str]:
    """The processes of a stage that are larger than the memory of their GPU or node."""
    on_student = _is_of_student(stage)
    if _is_on_gpu(case, stage):
        yield from _of_gpu(case, stage, 1 if on_student else _sharing(case, stage))
    together, memory = _on_node(case, stage), _nodes(case, stage).least_memory
    if memory and together > memory:
        fewer = "fewer `num_workers` of the student" if on_student else "more `ensemble.resources_per_member.num_cpus`"
        yield (
            f"{stage.name}: the processes of a node need {size(together)} of memory with the data, and the smallest "
            f"node has {size(round(memory))}. Let fewer run at a time ({fewer}), take smaller batches, or larger nodes."
        )


def _on_node(case: Case, stage: PlannedStage) -> int:
    """Bytes of main memory that a stage takes on one node: its processes at once, and the data.

    Ray's shared memory holds the data once; on a cluster that runs it is apart from the memory that Ray reports. On a
    single node the driver runs, too, with data of its own.
    """
    if not stage.memory:  # unknown
        return 0
    teachers, nodes = case.plan.teachers, _nodes(case, stage)
    tasks = min(teachers.size, resources.at_once(teachers, nodes)) if stage.name == "members" else teachers.actors
    at_once = case.plan.student.most if _is_of_student(stage) else tasks
    each = RUNTIME_BYTES + order_bytes(case) if _is_on_gpu(case, stage) else stage.memory
    driver = RUNTIME_BYTES + case.data.held if len(case.machines.nodes) == 1 else 0
    shared = 0 if nodes.least_object_store else case.data.held
    return -(-at_once // len(nodes.nodes)) * each + shared + driver


def _is_of_student(stage: PlannedStage) -> bool:
    return stage.name not in ("members", "soft targets")


def _is_on_gpu(case: Case, stage: PlannedStage) -> bool:
    return bool(case.plan.student.gpus) if _is_of_student(stage) else case.plan.device == "cuda"


def _nodes(case: Case, stage: PlannedStage) -> Machines:
    """The nodes that a stage may run on."""
    return case.machines.of("student" if _is_of_student(stage) else "teacher")


def _sharing(case: Case, stage: PlannedStage) -> int:
    """How many members' processes have the same GPU."""
    teachers = case.plan.teachers
    on_one = int(1 / teachers.num_gpus) if 0 < teachers.num_gpus < 1 else 1
    return min(on_one, teachers.size if stage.name == "members" else teachers.actors)


def _of_gpu(case: Case, stage: PlannedStage, sharing: int) -> Iterator[str]:
    memory, needed = case.machines.gpu_memory, sharing * stage.memory
    if memory and needed > memory:
        processes = "a process needs" if sharing == 1 else f"{sharing} processes on one GPU need"
        yield (
            f"{stage.name}: {processes} {size(needed)} of GPU memory, and a GPU has {size(round(memory))}. Set "
            f"`micro_batch_size`, {'use larger GPUs' if sharing == 1 else 'let fewer share a GPU, or use larger ones'}."
        )


@dataclass(frozen=True, kw_only=True)
class Free:
    """Free bytes: in the storage of a run, None where they are not known; and of memory on this machine."""

    storage: int | None
    memory: int


def of_logits(config: RunConfig, data: DataFacts, members: int, free: Free) -> Iterator[str]:
    """What does not fit of the members' logits that a schedule of T keeps. It needs no other part of a plan."""
    needed, workers = sizes(config, data, members), config.student.workers[1]
    if free.storage is not None and needed.logits > free.storage:
        yield (
            f"{SCHEDULE}: a schedule keeps each member's logits, {size(needed.logits)} "
            f"({_of_each(data, members)}), and '{config.storage}' has {size(free.storage)} free on its disk. Set "
            "`storage` to a larger one, or `temperature` to a number."
        )
    if workers * needed.held_by_worker > free.memory:
        yield (
            f"{SCHEDULE}: for a schedule each of the student's workers holds logits of {size(needed.held_by_worker)} "
            f"while it mixes parts, and {workers} of them have {size(free.memory)} of memory available on this "
            "machine. Use a machine with more memory, fewer members, or set `temperature` to a number."
        )


def note_on_logits(config: RunConfig, data: DataFacts, members: int, free: Free) -> str:
    """What the logits of `of_logits` take, for the user."""
    needed = sizes(config, data, members)
    disk = "not known for this storage"
    if free.storage is not None:
        disk = f"{size(free.storage)} free on the disk of '{config.storage}'"
    return (
        f"{SCHEDULE}: a schedule keeps each member's logits: {size(needed.logits)} in storage "
        f"({_of_each(data, members)}; {disk}), and {size(needed.held_by_worker)} of memory in each worker of the "
        f"student ({size(free.memory)} available on this machine). The student's training begins once all are stored."
    )


def _of_each(data: DataFacts, members: int) -> str:
    rows, of = round(data.examples * data.views * data.positions), "examples" if data.positions == 1 else "positions"
    return f"{members} members x {rows:,} {of} x {data.classes:,} classes x 4 bytes"
