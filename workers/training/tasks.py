"""Ray tasks for training in a single process: the training of one member.

Ten tasks start in seconds; ten runs of Ray Train take minutes to start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
import torch

from workers import faults, processes, storage
from workers.data import sampling
from workers.data.dataset import Dataset
from workers.device import device
from workers.inference.saved_weights import check_network
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor, torch_module
from workers.specs.members import MemberSample
from workers.specs.models import Network
from workers.specs.training import AnyTraining, TrainingSpec
from workers.training import loop
from workers.training.loader import HardLabels
from workers.training.loop import Epoch, Task


@dataclass(frozen=True)
class MemberJob:
    """A member to train on hard labels.

    key: its cache key. initial: URI of its initial weights; None: random ones. on: the device that a network trains on;
    None: CUDA where torch finds it.
    """

    member: Member
    training: AnyTraining
    seed: int
    key: str
    threads: int
    sample: MemberSample = "all"
    initial: str | None = None
    on: str | None = None


@ray.remote
def train_member(job: MemberJob, data: Dataset, events: Any) -> list[Epoch]:
    """Train one member on hard labels, write its weights and return its history.

    Resumes after the last epoch of an earlier attempt with the same key. The task sends `(member's name, epoch)` to
    `events` after each epoch.
    """
    member, training = job.member, job.training
    processes.announce(member.name, events)
    torch.set_num_threads(job.threads)
    state = storage.join(storage.parent(member.weights), checkpoints.STATE)
    assert isinstance(member.model, Network) and isinstance(training, TrainingSpec)
    with faults.caught(member.name):
        module = torch_module.build(member.model, job.seed, job.initial).to(device(job.on))
        progress = loop.begin(module, training.for_model(member.model), len(data.train))
        known = checkpoints.load_state(state, job.key)
        if known is not None:
            progress.restore(known)
    collator = predictor.collator(member.model)
    examples = HardLabels(data.train, draw=sampling.draw_of(job.sample, data, job.seed))
    task = Task(examples, data.validation, system=member.name, collator=collator)
    with faults.caught(member.name, at=lambda: len(progress.history)):
        for epoch in loop.epochs(progress, task, training, job.seed):
            events.actor.put_nowait.remote((member.name, epoch))  # ordered; waiting would release its cores
            checkpoints.save_state(progress.state(), state, job.key)
        kept = progress.kept_weights()
        checkpoints.save(kept, member.weights)
        check_network(module, kept, member, data.validation.x)
    return progress.history
