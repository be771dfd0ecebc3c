"""The actor that computes hidden states dies in the student's training: the student is that of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import RunConfig, run
from tests.makers import MODELS, write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

DEADLY = (
    MODELS
    + '''

import os
import signal


class Deadly(nn.Module):
    """Returns its hidden states. Beside the student, its process is killed at the fifth batch if a folder exists."""

    def __init__(self, hidden, flag):
        super().__init__()
        self.first, self.last, self.flag, self.batches = nn.Linear(8, hidden), nn.Linear(hidden, 3), flag, 0

    def forward(self, x):
        if os.path.isdir(self.flag):
            with open("/proc/self/cmdline") as title:
                self.batches += "ray::BesideActor" in title.read()
            if self.batches == 5:
                os.rmdir(self.flag)
                os.kill(os.getpid(), signal.SIGKILL)
        states = torch.relu(self.first(x))
        return {"logits": self.last(states), "hidden_states": (states,)}


def deadly(hidden, flag=""):
    return Deadly(hidden, flag)
'''
)
LOOKS = {"temperature": 2.0, "objective": [{"term": "soft"}, {"term": "hidden_mse"}], "hidden": {"where": "actor"}}


def student_of(folder: Path, *, is_killed: bool) -> bytes:
    """The weights of the student, whose member beside it is killed once or not."""
    flag = folder / "kill"  # no file, whose content would be a part of the keys of the member
    member = {"factory": "models:deadly", "kwargs": {"hidden": 24, "flag": str(flag)}}
    student = {"factory": "models:deadly", "kwargs": {"hidden": 6}}
    path = write_config(folder, ensemble__size=1, ensemble__model=member, student__model=student, distillation=LOOKS)
    (folder / "models.py").write_text(DEADLY)
    if is_killed:
        flag.mkdir()
    assert run(RunConfig.load(str(path))).status == "complete"
    assert not flag.exists(), "the actor computed no hidden states"
    return (folder / "runs/small/student/model.safetensors").read_bytes()


def test_the_actor_is_killed_in_the_students_training(tmp_path: Path) -> None:
    assert student_of(tmp_path / "killed", is_killed=True) == student_of(tmp_path / "whole", is_killed=False)
