"""Members that begin from others and learn from samples: in order, found again, the same however they are hosted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from orchestrator.reporting.report import Report
from tests.makers import write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

NET = {"factory": "models:mlp", "kwargs": {"hidden": 24}}
TRAINING = {"epochs": 2, "batch_size": 64, "learning_rate": 5.0e-3, "schedule": "cosine"}
GROUPS = [
    {"model": NET, "training": TRAINING},
    {"model": NET, "training": TRAINING, "size": 2, "initial": 0, "sample": {"classes": [1]}},
    {"model": NET, "training": TRAINING, "size": 2, "initial": "previous", "sample": "bootstrap"},
]


def go(folder: Path, **changes: Any) -> Report:
    ensemble = {"members": GROUPS, "resources_per_member": {"num_cpus": 0.5}, **changes}
    return run(RunConfig.load(str(write_config(folder, ensemble=ensemble))))


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every network and all soft targets of a run."""
    found = {f"member {k}": (folder / f"members/{k}/model.safetensors").read_bytes() for k in range(5)}
    found |= {path.name: path.read_bytes() for path in folder.glob("soft_targets/*/part-*.parquet")}
    return found | {"student": (folder / "student/model.safetensors").read_bytes()}


def test_members_are_trained_in_order_and_the_same_to_the_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = go(tmp_path, num_actors=1)
    folder = tmp_path / "runs/small"
    accuracies = [system.test.accuracy for system in report.systems if system.role == "member"]
    assert len(accuracies) == 5 and min(accuracies) > 0.6
    ends = {
        k: json.loads((folder / f"members/{k}/training.json").read_text())["facts"]["history"][-1]["ended_s"]
        for k in range(5)
    }
    assert ends[0] < min(ends[1], ends[2]) and ends[3] < ends[4]
    one = bytes_of(folder)
    go(tmp_path / "other", num_actors=2)
    assert bytes_of(tmp_path / "other/runs/small") == one

    for k in (1, 4):  # as of a run that was killed
        key = json.loads((folder / f"members/{k}/training.json").read_text())["key"]
        (folder / "trained" / key / "training.json").unlink()
    again = go(tmp_path, num_actors=1)
    assert bytes_of(folder) == one and again.system("student").test == report.system("student").test
    assert {stage.name for stage in again.stages if not stage.reused} >= {"members"}

    path = str(write_config(tmp_path, ensemble__initial="previous"))
    assert main(["worth", path, "--members", "10"]) == 2
    assert "`worth` foresees members that are alike" in capsys.readouterr().err
    assert main(["plan", path, "--no-probe"]) == 0 and "3 tasks, 1 at a time" in capsys.readouterr().out
