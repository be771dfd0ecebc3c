"""The function that Ray Train runs on each worker: the training loop, with Ray's checkpoints.

Every epoch ends in one `ray.train.report`. It is never called per step, since it waits for the controller. Its
checkpoint lets the loop resume after a fault with the same result. Rank 0 writes the trained weights at the end.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

from workers import faults, storage, telemetry
from workers.data.dataset import Dataset
from workers.inference.saved_weights import check_network
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor, teacher_layers, torch_module
from workers.specs.models import AnyModel, AnyNetwork
from workers.specs.objective import DistillationSpec
from workers.specs.training import AnyTraining, TrainingSpec
from workers.targets.student_store import PassEnded, Store
from workers.training import beside, loop
from workers.training.beside import MemberBeside
from workers.training.loader import Epochs, HardLabels, SoftLabels
from workers.training.loop import Epoch, Progress, Task

logger = logging.getLogger(__name__)

HISTORY = "history.json"
TELL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class StudentTraining:
    """A training of the student, or without soft targets of the hard-label baseline."""

    role: str
    model: AnyModel
    training: AnyTraining
    seed: int
    loss: DistillationSpec = loop.HARD_LABELS
    store: Store | None = None
    """Soft targets, which the teachers may still be computing."""
    initial: str | None = None
    """URI of the initial weights; None: random ones, or layers of `layers_of`."""
    split: str = ""
    """The split of a stage that it learns on; empty for the transfer set, or without soft targets the training set."""
    layers_of: Member | None = None
    """The member whose layers are the initial weights."""
    beside: MemberBeside | None = None
    """The member whose hidden states terms need; None where none does."""


@dataclass(frozen=True, kw_only=True)
class WorkerJob(StudentTraining):
    """Arguments of a data-parallel training worker."""

    model: AnyNetwork
    training: TrainingSpec
    data: ray.ObjectRef[Dataset]
    folder: str
    """URI of the folder for the trained weights and for further results that the driver reads."""
    weights: str
    threads: int
    events: Any
    """A `ray.util.queue.Queue` that gets `(role, epoch)` from rank 0 after each epoch."""
    run: str = ""


def train(config: dict[str, Any]) -> None:
    """The per-worker function; `config` is `{"job": WorkerJob}`.

    It re-raises exceptions as a `Fault` with the worker's rank and the epoch; the driver decides whether to restart
    the workers. It does not wrap errors of Ray, which mean that a process of Ray Train has died.
    """
    job: WorkerJob = config["job"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    progress: list[Progress] = []

    def epoch() -> int:
        return len(progress[0].history) if progress else faults.START

    with faults.caught(f"rank {rank} of {world}" if world > 1 else "", at=epoch, but=(ray.exceptions.RayError,)):
        try:
            _train(job, rank, world, progress.append)
        except PassEnded:
            return
        except Exception:
            logger.exception("training the %s failed", job.role)
            raise


def _train(job: WorkerJob, rank: int, world: int, begun: Callable[[Progress], None]) -> None:
    """`begun` gets the progress before the first epoch starts."""
    torch.set_num_threads(job.threads)
    model = ray.train.torch.prepare_model(_built(job))
    device = next(loop.plain(model).parameters()).device
    task = _task(job, device)
    few = loop.few(task.train.split.x, task.collator).to(device)
    loop.prepare(task.goal, model, task.ask, few, job.seed)
    progress = loop.begin(model, job.training.for_model(job.model), len(task.train), task.goal.module)
    _resume(progress)
    begun(progress)
    if job.store is not None:
        telemetry.label(job.run)
    with telemetry.sampled(lambda: _given(task)):
        for epoch in loop.epochs(progress, task, job.training, job.seed, rank=rank, world=world):
            with tempfile.TemporaryDirectory() as folder:
                saved = _save(progress, Path(folder)) if rank == 0 else None
                ray.train.report(vars(epoch), checkpoint=saved)
            if rank == 0:
                _tell(job, epoch)
    if rank == 0:
        kept = progress.kept_weights()
        checkpoints.save(kept, job.weights)
        check_network(loop.plain(model), kept, Member(job.role, job.model, job.weights), task.validation.x)
        history = json.dumps([vars(epoch) for epoch in progress.history])
        storage.write_text(storage.join(job.folder, HISTORY), history)


def _built(job: WorkerJob) -> nn.Module:
    """The network with its initial weights."""
    module = torch_module.build(job.model, job.seed, job.initial)
    if job.layers_of is not None:
        teacher_layers.fill(module, beside.module_of(job.layers_of), job.role)
    return module


def _given(task: Task) -> dict[str, float]:
    return {telemetry.STUDENT_EXAMPLES: task.train.given, telemetry.STUDENT_WAIT_S: task.train.waited_s}


def _tell(job: WorkerJob, epoch: Epoch) -> None:
    try:
        ray.get(job.events.actor.put_nowait.remote((job.role, epoch)), timeout=TELL_TIMEOUT_S)
    except ray.exceptions.RayError as error:  # the driver's queue has died or is slow; training continues
        logger.warning(
            "epoch %d of the %s did not reach the driver: %s", epoch.epoch + 1, job.role, type(error).__name__
        )


def _task(job: WorkerJob, device: torch.device) -> Task:
    data, collator = ray.get(job.data), predictor.collator(job.model)
    if job.split:
        source: Epochs = HardLabels(data.of_stage(job.split))
    elif job.store is None:
        views = job.training.epochs  # without soft targets to compute, each epoch can have its own view
        source = HardLabels(data.labelled(views))
    else:
        source = SoftLabels(data.transfer, job.store.layout, job.store.part, job.store.reader)
    member = None if job.beside is None else partial(beside.of_objective, job.beside, device)
    return Task(source, data.validation, job.loss, job.role, collator, member, job.seed)


def _save(progress: Progress, folder: Path) -> ray.train.Checkpoint:
    checkpoints.save_state(progress.state(), str(folder / checkpoints.STATE))
    return ray.train.Checkpoint.from_directory(folder)


def _resume(progress: Progress) -> None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        state = checkpoints.load_state(str(Path(folder, checkpoints.STATE)))
    if state is not None:
        progress.restore(state)
