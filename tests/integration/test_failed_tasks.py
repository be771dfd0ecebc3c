"""Tasks that raise: tried again in a fresh process, from where they were, and given up where that raises too."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.queue import Queue

from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.cluster.resources import Placement
from orchestrator.cluster.tasks import Task, completed
from tests.makers import MODELS, blobs
from workers import faults
from workers.data.dataset import Dataset, Split
from workers.errors import RunError
from workers.inference.teacher import Member
from workers.processes import Where
from workers.specs.models import ModelSpec
from workers.specs.training import TrainingSpec
from workers.training import tasks

pytestmark = pytest.mark.usefixtures("small_ray")
PLACEMENT = Placement(1, 1, 0.5, 0.0)


class Watch:
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def where(self, name: str) -> Where | None:
        return None

    def forget(self, name: str) -> None: ...

    def note(self, text: str) -> None:
        self.told.append(text)


def outcomes(*tasks: Task, watch: Watch) -> dict[str, Any]:
    waiting = Waiting(Need("tasks", len(tasks), PLACEMENT.held, PLACEMENT.held), 60.0, print, least=1)
    return {task.name: result for task, result in completed(tasks, waiting, watch)}


def test_one_that_raises_is_tried_again_in_a_fresh_process(tmp_path: Path) -> None:
    class Own(Exception):
        """Cannot be made again from its arguments, so not unpickled either."""

        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"no card {one}\nof {two}")

    @ray.remote
    @faults.raises_faults
    def measure(folder: str) -> int:
        (Path(folder) / str(os.getpid())).touch()
        if len(list(Path(folder).iterdir())) == 1:
            raise Own(1, 2)
        return os.getpid()

    watch = Watch()
    found = outcomes(Task("measuring: a", measure, (str(tmp_path),), PLACEMENT), watch=watch)
    assert watch.told == ["measuring: a failed (Own: no card 1): tried again in a fresh process"]
    assert len(list(tmp_path.iterdir())) == 2 and (tmp_path / str(found["measuring: a"])).exists()


def test_one_that_raises_again_ends_the_run_in_its_own_words() -> None:
    @ray.remote
    @faults.raises_faults
    def measure() -> None:
        raise KeyError("first line\nsecond line")

    watch, began = Watch(), time.monotonic()
    with pytest.raises(
        RunError, match=r"measuring: b failed again in a fresh process: KeyError: .*second line"
    ) as found:
        outcomes(Task("measuring: b", measure, (), PLACEMENT), watch=watch)
    assert len(watch.told) == 1 and time.monotonic() - began < 30
    assert "in measure" in "".join(found.value.__cause__.__notes__)


def test_an_error_about_the_run_is_not_tried_again() -> None:
    @ray.remote
    @faults.raises_faults
    def diverge() -> None:
        raise RunError("training diverged: lower `learning_rate`.")

    watch = Watch()
    with pytest.raises(RunError, match=r"^training diverged: lower `learning_rate`\.$"):
        outcomes(Task("member-0", diverge, (), PLACEMENT), watch=watch)
    assert not watch.told


FAULTY = (
    MODELS
    + '''

import os


class Faulty(nn.Module):
    """Counts its steps in a file, and raises at one of them: once, or whenever it comes to it."""

    def __init__(self, steps, at, once):
        super().__init__()
        self.net, self.steps, self.at, self.once = mlp(), steps, at, once

    def forward(self, x):
        if self.training:
            with open(self.steps, "a") as file:
                file.write("x")
            done = os.path.getsize(self.steps)
            if done == self.at or (done > self.at and not self.once):
                raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


def faulty(steps, at, once):
    return Faulty(steps, at, once)
'''
)


@pytest.fixture(scope="module")
def events(small_ray: None) -> Any:
    return Queue(actor_options={"num_cpus": 0})


def training_of(folder: Path, at: int, once: bool, events: Any) -> Task:
    """A member's training of four epochs of ten steps, which raises at its step `at`."""
    folder.mkdir()
    (folder / "models.py").write_text(FAULTY)
    kwargs = {"steps": str(folder / "steps"), "at": at, "once": once}
    spec = ModelSpec(factory="models:faulty", folder=str(folder), kwargs=kwargs)
    member = Member("member-1", spec, str(folder / "model.safetensors"))
    split = Split(*blobs(100, 0))
    training = TrainingSpec(epochs=4, batch_size=10)
    job = tasks.MemberJob(member, training, 0, "key", 1)
    arguments = (job, Dataset(split, split, split, None, 3), events)
    return Task("member-1", tasks.train_member, arguments, PLACEMENT, "training member-1", "train member-1")


def test_a_members_training_goes_on_behind_its_last_epoch(tmp_path: Path, events: Any) -> None:
    watch = Watch()
    undisturbed = outcomes(training_of(tmp_path / "undisturbed", 0, True, events), watch=watch)["member-1"]
    assert not watch.told
    found = outcomes(training_of(tmp_path / "raises", 25, True, events), watch=watch)["member-1"]
    assert watch.told == [
        "training member-1, epoch 3, failed (OutOfMemoryError: CUDA out of memory): tried again in a fresh process"
    ]
    assert (tmp_path / "raises" / "steps").stat().st_size == 20 + 5 + 20  # two epochs, the half, and two more
    whole = [replace(epoch, seconds=0.0, ended_s=0.0) for epoch in undisturbed]
    assert [replace(epoch, seconds=0.0, ended_s=0.0) for epoch in found] == whole
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("undisturbed", "raises")]
    assert weights[0] == weights[1]

    with pytest.raises(
        RunError, match=r"training member-1, epoch 2, failed again in a fresh process: OutOfMemoryError"
    ):
        outcomes(training_of(tmp_path / "always", 15, False, events), watch=watch)
    assert (tmp_path / "always" / "steps").stat().st_size == 10 + 5 + 1
