"""A student's workers raise: once and the run goes on, again in the same epoch and it ends in their own words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.cli.command import main
from tests.integration.test_jobs_on_nodes import events
from tests.makers import MODELS, write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

FAULTY = (
    MODELS
    + '''

import os
import torch.distributed as dist


class Faulty(nn.Module):
    """Raises in training on one rank, at its third step in a process: as long as a file is there."""

    def __init__(self, file):
        super().__init__()
        self.net, self.file, self.steps = mlp(hidden=6), file, 0

    def forward(self, x):
        if self.training and dist.is_initialized() and dist.get_rank() == 1:
            self.steps += 1
            if self.steps == 3 and os.path.exists(self.file):
                if os.path.exists(self.file + ".once"):
                    os.remove(self.file)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\\nGPU 0 has 79 GiB")
        return self.net(x)


def faulty(file):
    return Faulty(file)
'''
)


def test_two_workers_of_which_one_raises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "raise"
    model = {"kind": "python", "factory": "models:faulty", "kwargs": {"file": str(file)}}
    path = write_config(tmp_path, student__model=model, student__num_workers=2, ensemble__size=1)
    (tmp_path / "models.py").write_text(FAULTY)

    file.touch()
    began = time.monotonic()
    assert main(["run", str(path)]) == 1
    said = capsys.readouterr().err
    assert time.monotonic() - began < 120  # on a machine that does nothing else, 40 s behind the members
    assert (
        "training the baseline (rank 1 of 2, epoch 1) failed again in a fresh process: OutOfMemoryError: CUDA out of "
        "memory. Tried to allocate 2 GiB.\nGPU 0 has 79 GiB. What was complete is kept" in said
    )
    notes = [event["text"] for event in events(tmp_path) if event["event"] == "note"]
    assert sum("its workers are started again from the last checkpoint" in text for text in notes) == 1

    (tmp_path / "raise.once").touch()
    assert main(["run", str(path)]) == 0
    notes = [event["text"] for event in events(tmp_path) if event["event"] == "note"]
    assert sum("its workers are started again from the last checkpoint" in text for text in notes) == 2
