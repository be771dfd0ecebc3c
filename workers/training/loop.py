"""One training loop for members, baseline and student: members and baseline train without soft targets.

The loop is pure torch; it knows neither Ray nor storage. `epochs` is a generator: it yields the metrics of each epoch,
and the caller reports, saves or stops. The `loader` decides on the examples and their order. It draws a batch before it
cuts it across workers, so that one worker and two take the same steps up to rounding.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from workers.data.arrays import Index, micro_batch
from workers.data.collate import Collator, Inputs, collate
from workers.data.dataset import Split
from workers.data.examples import Examples, embedded, values_of
from workers.errors import RunError
from workers.losses import Outputs
from workers.models import attention
from workers.models.ask import ask
from workers.models.hidden import observe
from workers.models.precision import autocast
from workers.seeds import seed_all, seed_of, seeded
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.targets.layout import batch_sizes
from workers.training import loader, objective, optimizer
from workers.training.beside import Beside
from workers.training.loader import Batch
from workers.training.objective import AtStep, Loss, Objective
from workers.training.schedules import Moment
from workers.training.tally import Tally

HARD_LABELS = DistillationSpec(temperature=1.0, soft_weight=0.0, hard_weight=1.0)
"""The loss of members and baseline: cross entropy with the labels."""


@dataclass(frozen=True)
class Task:
    """A training task: examples with labels, soft targets or both, and the objective."""

    train: loader.Epochs
    validation: Split
    loss: DistillationSpec = HARD_LABELS
    """Specification of the objective, from which each process builds its own."""
    system: str = "the network"
    """Name of the network in error messages."""
    collator: Collator = collate
    """Builds the model's input batches."""
    beside: Callable[[Objective], Beside] | None = None
    """The member beside the network, with the signals that an objective needs; None where no term needs any."""
    seed: int = 0
    """From which terms of the user's own draw initial values of their parameters."""

    @cached_property
    def goal(self) -> Objective:
        """The objective of this process, with the same initial parameters in each."""
        with seeded(seed_of(self.seed, "terms")):
            return objective.build(self.loss)

    @cached_property
    def ask(self) -> Beside | None:
        """Asks the member for the signals of a batch."""
        return None if self.beside is None else self.beside(self.goal)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Metrics of one epoch over all workers.

    `train_loss` is the mean loss of a step. Its soft term is a divergence (without the teacher's entropy), so that it
    is 0 where the student equals the teacher.
    """

    epoch: int
    train_loss: float
    validation_accuracy: float
    validation_nll: float
    seconds: float
    examples: int
    ended_s: float = 0.0
    """End of the epoch, in seconds since 1970; 0 in records of older versions."""
    waited_s: float = 0.0
    """The part of `seconds` in which the first worker waited for soft targets."""
    terms: dict[str, float] = field(default_factory=dict)
    """With several terms, the mean of each, unweighted, over the steps in which its weight was above 0; `soft` as a
    divergence."""
    train_accuracy: float | None = None
    """Over the rows with a label, by the outputs of the steps that learned from them, so a mean over the epoch; None
    without any label, of an estimator, and in records of older versions."""


@dataclass
class Progress:
    """The complete mutable state of a training: with it in a checkpoint, a resumed training gives the same result."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    terms: nn.Module = field(default_factory=nn.ModuleDict)
    """Learned parameters of the objective's terms."""

    def state(self) -> dict[str, Any]:
        """The state as tensors and plain values only, so that `torch.load(weights_only=True)` can read it."""
        return {
            "model": plain(self.model).state_dict(),
            "objective": self.terms.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [vars(epoch) for epoch in self.history],
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        plain(self.model).load_state_dict(state["model"])
        self.terms.load_state_dict(state.get("objective", {}))  # which earlier versions did not have
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best = state["best"]

    def kept_weights(self) -> dict[str, Tensor]:
        """The resulting weights: those of the best epoch with `keep: best`, else of the last."""
        return self.best if self.best is not None else plain(self.model).state_dict()


def begin(model: nn.Module, spec: TrainingSpec, examples: int, terms: nn.Module | None = None) -> Progress:
    """Optimizer and learning-rate schedule for `model`, which may be wrapped for data-parallel training.

    examples: number of examples in an epoch. terms: learned parameters of a prepared objective.
    """
    terms = nn.ModuleDict() if terms is None else terms
    chosen = optimizer.build(model, spec, terms.parameters())
    steps = spec.epochs * len(batch_sizes(examples, spec.batch_size))
    return Progress(model, chosen, optimizer.schedule(chosen, spec, steps), terms=terms)


def few(x: Examples, collator: Collator) -> Inputs:
    """The examples that terms are settled on, as a batch: the same two in the trial of a run and in the run."""
    return collator(x, np.arange(min(2, len(x))))


def prepare(goal: Objective, model: nn.Module, beside: Beside | None, x: Inputs, seed: int) -> None:
    """Settle the terms of an objective that need a member beside the student, on a few examples.

    x: as of `few`, on the device of the student, to which all learned parameters of terms go. Raises: `RequestError`
    where a term cannot compare student and member.
    """
    if beside is not None:
        was = plain(model).training
        with torch.no_grad(), seeded(seed_of(seed, "objective")):
            goal.prepare(observe(plain(model).eval(), x, goal.beside).float(), beside(x, np.arange(len(x)))())
        plain(model).train(was)
    goal.module.to(x.device)


def epochs(
    progress: Progress, task: Task, spec: TrainingSpec, seed: int, *, rank: int = 0, world: int = 1
) -> Iterator[Epoch]:
    """Train until `spec.epochs` epochs are in `progress.history`, yielding each as it ends.

    Worker `rank` of `world` takes its cut of every batch. The gradient is that of the mean over the whole batch.
    """
    device = next(plain(progress.model).parameters()).device
    goal = task.goal
    model: Any = torch.compile(progress.model) if spec.compile else progress.model
    forward = partial(observe, model, needs=goal.beside)
    steps = len(batch_sizes(len(task.train), spec.batch_size))
    workers = torch.tensor(float(world), device=device)
    while len(progress.history) < spec.epochs:
        number, started, waited = len(progress.history), time.perf_counter(), task.train.waited_s
        seed_all(seed_of(seed, "epoch", number, rank))  # the same draws of a network in a resumed run
        progress.model.train()
        tally = Tally(goal, device)
        at_steps = [goal.at(Moment(number, spec.epochs, k, steps)) for k in range(steps)]
        temperatures = [at.temperature for at in at_steps]
        batches = loader.batches(
            task.train,
            number,
            spec.batch_size,
            seed,
            device,
            rank=rank,
            world=world,
            temperatures=temperatures,
            collator=task.collator,
        )
        for at, batch in zip(at_steps, batches, strict=True):
            losses = step(progress, forward, at, batch, spec, workers=workers, beside=task.ask)
            tally.add(at, losses, batch)
        trained = tally.means(_over_workers(tally.sums()).tolist())
        if not math.isfinite(trained.loss):
            raise RunError(
                f"{task.system}: training diverged: the loss of epoch {number + 1} is not finite. Expected a finite "
                "loss: lower its `training.learning_rate`, or set `training.gradient_clip`."
            )
        correct, nll, count = _validate(progress.model, task, spec, device, rank=rank, world=world)
        if not math.isfinite(nll):
            raise _without_answer(progress.model, task, spec, device, world=world)
        epoch = Epoch(
            epoch=number,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            validation_accuracy=correct / count,
            validation_nll=nll / count,
            seconds=time.perf_counter() - started,
            examples=len(task.train),
            ended_s=time.time(),
            waited_s=task.train.waited_s - waited,
            terms=trained.terms,
        )
        if spec.keep == "best" and epoch.validation_accuracy > max(
            (e.validation_accuracy for e in progress.history), default=-1.0
        ):
            progress.best = copy.deepcopy(plain(progress.model).state_dict())
        progress.history.append(epoch)
        yield epoch


def step(
    progress: Progress,
    forward: Callable[[Inputs], Outputs],
    at: AtStep,
    batch: Batch,
    spec: TrainingSpec,
    *,
    workers: Tensor,
    beside: Beside | None = None,
) -> list[Loss]:
    """One step of the optimizer on one worker's cut of a batch.

    Returns the loss of each piece; they sum to the cut's share of the batch's mean. forward: the forward pass of
    `progress.model`, perhaps compiled. workers: [] float32, how many workers share the batch. beside: asks a member for
    the signals that terms need.
    """
    progress.optimizer.zero_grad(set_to_none=True)
    losses = []
    for piece, last in _pieces(batch, spec.micro_batch_size):
        separate = attention.for_training(piece.x.device, spec.precision)
        with separate, nullcontext() if last else _unsynchronised(progress.model):
            answer = None if beside is None else beside(piece.x, piece.ids)
            with autocast(piece.x.device, spec.precision):
                outputs = forward(piece.x)
            if answer is not None:
                piece = replace(piece, beside=answer())
            loss = at.loss(outputs.float(), piece)
            loss.total.backward(workers)  # cancels DDP's division by workers
        losses.append(loss.detached())
    of_terms = list(progress.terms.parameters())
    for parameter in of_terms:  # which DDP does not know
        if parameter.grad is not None:
            parameter.grad = _over_workers(parameter.grad) / workers
    if spec.gradient_clip is not None:
        nn.utils.clip_grad_norm_([*progress.model.parameters(), *of_terms], spec.gradient_clip)
    progress.optimizer.step()
    progress.schedule.step()
    return losses


def plain(model: nn.Module) -> nn.Module:
    """The module itself, without the wrapper of data-parallel training."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _pieces(batch: Batch, size: int | None) -> Iterator[tuple[Batch, bool]]:
    """Cut a worker's share into nearly equal pieces of at most `size` rows; each with whether it is the last."""
    rows = len(batch.x)
    if size is None or rows <= size:  # also for an empty cut: each worker has to join the exchange
        yield batch, True
        return
    stop = 0
    for piece in batch_sizes(rows, size):
        start, stop = stop, stop + piece
        yield batch.cut(start, stop), stop == rows


def _unsynchronised(model: nn.Module) -> AbstractContextManager[Any]:
    """Suppress DDP's gradient exchange, which happens once per batch, with its last piece."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@torch.no_grad()
def _validate(
    model: nn.Module, task: Task, spec: TrainingSpec, device: torch.device, *, rank: int, world: int
) -> tuple[float, float, float]:
    """Correct predictions, summed NLL and rows over all workers; each worker measures its cut by micro-batches."""
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for _, logits, labels in _answers(model, task, spec, device, _cuts(task, world)[rank]):
        sums[0] += (logits.argmax(-1) == labels).sum()
        sums[1] += nn.functional.cross_entropy(logits, labels, reduction="sum")
        sums[2] += len(labels)
    correct, nll, count = _over_workers(sums).tolist()
    return correct, nll, count


def _cuts(task: Task, world: int) -> list[Index]:
    """The ids of validation examples that each worker measures."""
    return np.array_split(np.arange(len(task.validation)), world)


def _answers(
    model: nn.Module, task: Task, spec: TrainingSpec, device: torch.device, ids: Index
) -> Iterator[tuple[Index, Tensor, Tensor]]:
    """For each micro-batch of validation examples their ids, logits [P, K] float32 and labels [P] int64."""
    module, split = plain(model).eval(), task.validation
    size = spec.micro_batch_size or micro_batch(values_of(split.x), embedded(split.x), device.type)
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        x, rows, labels = split.read(some)
        with autocast(device, spec.precision):
            logits = ask(module, task.collator(x, rows).to(device))
        yield some, logits.float(), torch.from_numpy(labels).to(device)


@torch.no_grad()
def _without_answer(model: nn.Module, task: Task, spec: TrainingSpec, device: torch.device, *, world: int) -> RunError:
    """The error that names the first validation example without a finite NLL; the same on every worker.

    It computes what the validation of all workers did.
    """
    rows = task.validation.rows
    for mine in _cuts(task, world):
        for ids, logits, labels in _answers(model, task, spec, device, mine):
            wrong = ~torch.isfinite(nn.functional.cross_entropy(logits, labels, reduction="none"))
            if wrong.any():
                row = rows.example_of(int(rows.rows(ids)[int(wrong.nonzero()[0])]))
                return RunError(
                    f"{task.system} answers NaN or infinity for example {row} of the validation split. Expected finite "
                    "logits for every example: guard divisions, logarithms and roots in its model, or leave such "
                    "examples out."
                )
    return RunError(
        f"{task.system}: the loss of the validation split is NaN or infinity, and computed again it is finite for each "
        "example. Expected the same finite logits each time: look for random numbers in evaluation mode, and for "
        "logits of extreme size."
    )


def _over_workers(value: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value
