"""What runs as a Ray task: a member's training, a system's predictions, everybody's latency.

Tasks and not actors, since each has a beginning and an end; ten tasks cost seconds where ten Ray Train starts cost
minutes. Each first tells a `ray.util.queue.Queue`, `heard`, its name and where it is. Exceptions leave it as a `Fault`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import checkpoints, ensemble, evaluate, factories, faults, models, processes, storage, teacher, train_loop
from workers.data import Dataset
from workers.feed import HardLabels
from workers.inputs import as_tensor
from workers.specs import FactorySpec, TrainingSpec
from workers.teacher import Member
from workers.train_loop import Epoch, Task

logger = logging.getLogger(__name__)

TRIES, PATIENCE_S = 10, 30.0
"""How often, and for how long each time, a task tries to be heard."""


@ray.remote
def train_member(
    member: Member, training: TrainingSpec, seed: int, mark: str, data: Dataset, threads: int, heard: Any
) -> list[Epoch]:
    """Train one member on hard labels, write its weights, return its history.

    Goes on behind the last epoch of an earlier attempt that followed from the same (`mark`). `heard` also gets
    `(member's name, epoch)` after each.
    """
    _begun(member.name, heard)
    torch.set_num_threads(threads)
    state = storage.join(storage.parent(member.weights), checkpoints.STATE)
    with faults.caught(member.name):
        module = models.build(member.model, seed).to(evaluate.device())
        progress = train_loop.begin(module, training, len(data.train))
        known = checkpoints.load_state(state, mark)
        if known is not None:
            progress.restore(known)
    with faults.caught(member.name, at=lambda: len(progress.history)):
        for epoch in train_loop.epochs(progress, Task(HardLabels(data.train), data.validation), training, seed):
            heard.actor.put_nowait.remote((member.name, epoch))  # in order; waiting would lend its cores
            checkpoints.save_state(progress.state(), state, mark)
        checkpoints.save(progress.kept_weights(), member.weights)
    return progress.history


@ray.remote
@faults.raises_faults
def predict(
    member: Member, data: Dataset, split: str, threads: int, kept: tuple[str, str] | None, name: str, heard: Any
) -> NDArray[np.float32]:
    """Probabilities of one system at T = 1 for a split: [N, K] float32.

    kept: where they are written, and what they follow from.
    """
    _begun(name, heard)
    torch.set_num_threads(threads)
    predicted = evaluate.predict(teacher.load(member), getattr(data, split).x)
    if kept is not None:
        try:
            checkpoints.save_state({"probabilities": torch.from_numpy(predicted)}, *kept)
        except Exception as error:  # of any storage; they are only kept to save time
            logger.warning("predictions could not be kept: %s", error)
    return predicted


@ray.remote
@faults.raises_faults
def describe(
    systems: dict[str, list[Member]], data: Dataset, combine: str, repeats: int, name: str, heard: Any
) -> dict[str, tuple[int, dict[str, float]]]:
    """Parameters and latency in ms of one example, for each system; an ensemble is several members and their mean.

    In one process with one thread and one system at a time, so that the figures can be compared.
    """
    _begun(name, heard)
    torch.set_num_threads(1)
    place = evaluate.device()
    example = as_tensor(data.test.x[:1]).to(place)
    loaded: dict[str, nn.Module] = {m.name: teacher.load(m).to(place) for members in systems.values() for m in members}
    found = {}
    for system, members in systems.items():
        modules = [loaded[member.name] for member in members]
        found[system] = (
            sum(models.parameters(module) for module in modules),
            evaluate.latency_ms([_predictor(modules, combine)], example, repeats),
        )
    return found


@ray.remote
@faults.raises_faults
def custom_metrics(
    specs: Sequence[FactorySpec], probabilities: NDArray[np.float32], labels: NDArray[np.int64], name: str, heard: Any
) -> dict[str, float]:
    """The metrics that the configuration adds, of one system's predictions."""
    _begun(name, heard)
    found: dict[str, float] = {}
    for spec in specs:
        metric = factories.load(spec.factory, spec.folder)
        found.update({k: float(v) for k, v in metric(probabilities, labels, **spec.kwargs).items()})
    return found


def _begun(name: str, heard: Any) -> None:
    """Say so until it is heard: the queue may be on its way back from the dead. In a thread, since who waits for Ray in
    a task lends its cores to others."""
    told = (name, processes.here())

    def tell() -> None:
        for _ in range(TRIES):
            try:
                heard.actor.put_nowait.remote(told).future().result(timeout=PATIENCE_S)
                return
            except Exception:  # of Ray, in one of several ways
                time.sleep(1.0)

    threading.Thread(target=tell, name="begun", daemon=True).start()


def _predictor(modules: Sequence[nn.Module], combine: str) -> Callable[[Tensor], Tensor]:
    def answer(x: Tensor) -> Tensor:
        each = [torch.softmax(module(x).float(), dim=-1) for module in modules]
        return each[0] if len(each) == 1 else ensemble.average(each, None, combine)

    return answer
