"""What runs as a Ray task where a network learns alone: the training of one member.

Ten tasks cost seconds where ten starts of Ray Train cost minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
import torch

from workers import faults, processes, storage
from workers.data.dataset import Dataset
from workers.device import device
from workers.inference.kept import check_kept
from workers.inference.teacher import Member
from workers.models import checkpoints, predictor, torch_module
from workers.specs import AnyTraining, ModelSpec, TrainingSpec
from workers.training import loop
from workers.training.loader import HardLabels
from workers.training.loop import Epoch, Task


@dataclass(frozen=True)
class MemberJob:
    """A member that is to be trained on hard labels. key: the digest of what it follows from."""

    member: Member
    training: AnyTraining
    seed: int
    key: str
    threads: int


@ray.remote
def train_member(job: MemberJob, data: Dataset, events: Any) -> list[Epoch]:
    """Train one member on hard labels, write its weights, return its history.

    Resumes behind the last epoch of an earlier attempt with the same key. `events` also gets
    `(member's name, epoch)` after each.
    """
    member, training = job.member, job.training
    processes.announce(member.name, events)
    torch.set_num_threads(job.threads)
    state = storage.join(storage.parent(member.weights), checkpoints.STATE)
    assert isinstance(member.model, ModelSpec) and isinstance(training, TrainingSpec)
    with faults.caught(member.name):
        module = torch_module.build(member.model, job.seed).to(device())
        progress = loop.begin(module, training, len(data.train))
        known = checkpoints.load_state(state, job.key)
        if known is not None:
            progress.restore(known)
    collator = predictor.collator(member.model)
    task = Task(HardLabels(data.train), data.validation, system=member.name, collator=collator)
    with faults.caught(member.name, at=lambda: len(progress.history)):
        for epoch in loop.epochs(progress, task, training, job.seed):
            events.actor.put_nowait.remote((member.name, epoch))  # in order; waiting would lend its cores
            checkpoints.save_state(progress.state(), state, job.key)
        kept = progress.kept_weights()
        checkpoints.save(kept, member.weights)
        check_kept(module, kept, member, data.validation.x)
    return progress.history
