"""What of a planned run does not fit: memory of nodes and GPUs, and the disk. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cluster import resources
from orchestrator.plan.outlook import Case, Outlook, PlannedStage, order_bytes
from orchestrator.plan.whole import Runs
from workers.data.memory import size


def misfits(runs: Runs, found: Outlook, free: int | None) -> Iterator[str]:
    """Each thing that does not fit, with the figures and a remedy.

    found: the outlook of all runs. free: bytes on the disk of the storage, if known.
    """
    case = runs.first.case
    if free is not None and found.stored > free:
        largest = max(runs.first.outlook.stages, key=lambda each: each.stored)
        yield (
            f"storage: the run stores {size(found.stored)}, with {size(largest.stored)} for {largest.name}, and "
            f"'{case.config.storage}' has {size(free)} free. Set `storage` to a larger one"
            + (", or `distillation.top_k`." if largest.name == "soft targets" else ".")
        )
    yield from _of_order(case)
    for stage in runs.first.outlook.stages:
        yield from _of_memory(case, stage)
    for name, each in runs.students.items():
        for stage in each.own_stages(name):
            yield from _of_memory(each.case, stage)


def _of_order(case: Case) -> Iterator[str]:
    """A transfer set of more examples than a process can put in order."""
    needed, memory = order_bytes(case), case.machines.least_memory
    if memory and needed > memory:
        yield (
            f"data: the random order of {case.work.transfer:,} examples takes {size(needed)} in each process, and the "
            f"smallest node has {size(round(memory))}. Make examples longer and fewer, or take larger nodes."
        )


def _of_memory(case: Case, stage: PlannedStage) -> Iterator[str]:
    """A process of a stage that is larger than the memory it runs in."""
    machines, on_student = case.machines, stage.name not in ("members", "soft targets")
    on_gpu = bool(case.plan.student.gpus) if on_student else case.plan.device == "cuda"
    if on_gpu:
        yield from _of_gpu(case, stage, 1 if on_student else _sharing(case, stage))
        return
    there = machines.of("student" if on_student else "teacher")
    teachers = case.plan.teachers
    tasks = min(teachers.size, resources.at_once(teachers, machines)) if stage.name == "members" else teachers.actors
    at_once = case.plan.student.most if on_student else tasks
    together, memory = -(-at_once // len(there.nodes)) * stage.memory, there.least_memory
    if memory and together > memory:
        fewer = "fewer `num_workers` of the student" if on_student else "more `ensemble.resources_per_member.num_cpus`"
        yield (
            f"{stage.name}: the processes of a node need {size(together)} of memory, and the smallest node has "
            f"{size(round(memory))}. Let fewer run at a time ({fewer}), take smaller batches, or larger nodes."
        )


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
