"""Whole runs in which each example has member weights of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from orchestrator.reporting.report import Report
from tests.makers import write_config
from workers import mixture_weights
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.targets.soft_targets import manifest_at, read_part

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

OWN = """
def surest(probabilities, power=2):
    return probabilities.amax(-1) ** power
"""


def go(folder: Path, **changes: Any) -> Report:
    return run(RunConfig.load(str(write_config(folder, **changes))))


def store(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("runs/small/soft_targets/*/part-*.parquet")}


def test_soft_targets_are_the_weighted_mean_on_any_number_of_actors(tmp_path: Path) -> None:
    for actors in (1, 3):
        go(tmp_path / str(actors), ensemble__weights="entropy", ensemble__num_actors=actors)
    assert store(tmp_path / "1") == store(tmp_path / "3") != {}
    (folder,) = tmp_path.glob("1/runs/small/soft_targets/*")
    manifest = manifest_at(str(folder))
    assert manifest is not None and manifest.what["weights"] == "entropy"
    config = RunConfig.load(str(tmp_path / "1/config.yaml"))
    assert config.ensemble.model is not None
    folders = [tmp_path / f"1/runs/small/members/{k}/model.safetensors" for k in range(3)]
    members = [Member(f"member-{k}", config.ensemble.model, str(path)) for k, path in enumerate(folders)]
    x = torch.from_numpy(np.load(tmp_path / "1/train.npz")["x"])
    with torch.no_grad():
        p = torch.softmax(torch.stack([teacher.load(member)(x).logits for member in members]) / 2.0, -1)
    expected = mixture_weights.mean("entropy", p, "arithmetic").numpy()
    for part in manifest.parts:
        rows = read_part(str(folder), part)
        np.testing.assert_allclose(rows.targets.columns[0].numpy(), expected[rows.ids], atol=1e-6)


def test_a_rule_of_ones_own_decides_what_is_computed_again(tmp_path: Path) -> None:
    rule = {"factory": "own:surest", "kwargs": {"power": 3}}
    path = write_config(tmp_path, ensemble__weights=rule)
    (tmp_path / "own.py").write_text(OWN)
    first = run(RunConfig.load(str(path)))
    assert json.loads((tmp_path / "runs/small/report.json").read_text())["status"] == "complete"
    (tmp_path / "own.py").write_text(OWN.replace("amax(-1)", "amax(-1).sqrt()"))
    second = run(RunConfig.load(str(path)))
    again = {stage.name for stage in second.stages if not stage.reused}
    assert "soft targets" in again and "members" not in again
    assert first.system("ensemble").test != second.system("ensemble").test
    (tmp_path / "own.py").write_text(OWN.replace("** power", "* 0"))
    assert main(["run", str(path)]) == 2


def test_a_schedule_of_t_takes_the_weights_at_each_t(tmp_path: Path) -> None:
    falling = {"from": 4.0, "to": 1.0, "schedule": "cosine"}
    made = go(tmp_path, ensemble__weights="agreement", distillation__temperature=falling)
    assert made.status == "complete" and made.soft_targets.temperature == 4.0
