"""A baseline that learns from examples as they are is that of a run without augmentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.command import main
from tests.makers import write_config


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_the_baseline_of_a_run_without_augmentation_is_reused(tmp_path: Path) -> None:
    (tmp_path / "shifts.py").write_text("def moved(x, draws): return x + draws.uniform(-0.1, 0.1, x.shape[1])\n")
    path = str(write_config(tmp_path))
    moved = "{factory: 'shifts:moved', views: 2, baseline: %s}"
    reused = {}
    for name, augment in (("plain", "null"), ("kept", moved % "false"), ("varied", moved % "true")):
        assert main(["run", path, "--set", f"data.augment={augment}", "--set", f"name={name}"]) == 0
        report = json.loads((tmp_path / f"runs/{name}/report.json").read_text())
        reused[name] = {stage["name"]: stage["reused"] for stage in report["stages"]}
    stages = ("members", "baseline", "soft targets", "student")
    assert [reused["kept"][stage] for stage in stages] == [True, True, False, False]
    assert [reused["varied"][stage] for stage in stages] == [True, False, True, True]
