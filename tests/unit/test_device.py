"""Work computes on the device that its placement names, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
import torch

from tests.makers import MODELS, blobs
from workers import processes
from workers.data.dataset import Dataset, Split
from workers.device import device
from workers.evaluation import metrics
from workers.evaluation.metrics import Inference
from workers.evaluation.tasks import Measurement, describe
from workers.faults import Fault
from workers.inference.teacher import Member
from workers.specs.models import ModelSpec
from workers.specs.training import TrainingSpec
from workers.training.tasks import MemberJob, train_member


def test_a_gpu_that_a_task_does_not_hold_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device("cpu").type == "cpu" and device().type == device("cuda").type == "cuda"


def test_a_gpu_that_torch_does_not_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(processes, "announce", lambda name, events: None)
    assert device().type == "cpu"
    (tmp_path / "models.py").write_text(MODELS)
    member = Member("member-0", ModelSpec(factory="models:mlp", folder=str(tmp_path)), str(tmp_path / "weights"))
    split, how = Split(*blobs(40, 3)), Inference(on="cuda")
    data = Dataset(split, split, split, None, 3)
    job = MemberJob(member, TrainingSpec(epochs=1), 0, "key", torch.get_num_threads(), on="cuda")
    with pytest.raises(Fault, match=r"torch sees no CUDA on .* `ensemble.resources_per_member.num_gpus: 0`"):
        cast(Any, train_member)._function(job, data, MagicMock())
    with pytest.raises(RuntimeError, match="torch sees no CUDA"):
        metrics.log_probabilities(torch.nn.Linear(8, 3), split.x, how)
    with pytest.raises(Fault, match="torch sees no CUDA"):
        cast(Any, describe)._function(Measurement([(member, how)], [], "arithmetic", 1, "cuda"), data, "a", None)
