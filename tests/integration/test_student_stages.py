"""A student that is trained in several stages: each begins where the one before ended, and is found again by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import safetensors.torch
import torch

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from orchestrator.reporting.report import Report
from tests.makers import write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

STILL = {"epochs": 1, "batch_size": 64, "learning_rate": 1.0e-9}


def go(folder: Path, *stages: dict[str, Any], **changes: Any) -> Report:
    return run(RunConfig.load(str(write_config(folder, student__stages=list(stages), **changes))))


def weights(path: Path) -> torch.Tensor:
    return torch.cat([value.flatten() for value in safetensors.torch.load_file(path).values()])


def reused(report: Report) -> dict[str, bool]:
    return {stage.name: stage.reused for stage in report.stages if stage.name in ("stage-one", "student", "baseline")}


def test_each_stage_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """The second stage hardly moves, so its student is what the first learned; another second stage trains it alone."""
    one, two = {"name": "one", "objective": [{"term": "logits_mse"}]}, {"name": "two", "training": STILL}
    report = go(tmp_path, one, two)
    folder = tmp_path / "runs/small"
    learned, student = weights(folder / "stages/one/model.safetensors"), weights(folder / "student/model.safetensors")
    torch.testing.assert_close(student, learned, atol=1e-6, rtol=0)
    assert not torch.equal(student, learned)
    assert reused(report) == {"stage-one": False, "student": False, "baseline": False}
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert (
        runs["stage-one"].data.tags["stillhouse.role"] == "stage"
        and runs["student"].data.tags["stillhouse.role"] == "student"
    )
    assert runs["stage-one"].data.params["distillation.objective.0.term"] == "logits_mse"
    assert len(client.get_metric_history(runs["stage-one"].info.run_id, "train_loss")) == 2
    assert runs["stage-one"].info.status == "FINISHED"

    assert reused(go(tmp_path, one, two)) == {"stage-one": True, "student": True, "baseline": True}
    assert reused(go(tmp_path, one, {"name": "two"})) == {"stage-one": True, "student": False, "baseline": True}
    other = {"name": "one", "objective": [{"term": "reverse_kl"}]}
    assert reused(go(tmp_path, other, two)) == {"stage-one": False, "student": False, "baseline": True}
    assert main(["report", str(folder), "--push", "--set", f"tracking.uri=sqlite:///{tmp_path}/pushed.db"]) == 0
    pushed = mlflow.MlflowClient(f"sqlite:///{tmp_path}/pushed.db")
    (experiment,) = pushed.search_experiments(filter_string="name = 'tests'")
    assert "stage-one" in {each.info.run_name for each in pushed.search_runs([experiment.experiment_id])}


def test_student_and_baseline_begin_from_given_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    begun = {
        "0.weight": torch.randn(6, 8),
        "0.bias": torch.zeros(6),
        "3.weight": torch.randn(3, 6),
        "3.bias": torch.ones(3),
    }
    safetensors.torch.save_file(begun, tmp_path / "begun.safetensors")
    path = write_config(tmp_path, student__initial="begun.safetensors", student__training=STILL)
    report = run(RunConfig.load(str(path)))
    for system in ("student", "baseline"):
        found = safetensors.torch.load_file(tmp_path / f"runs/small/{system}/model.safetensors")
        for name, value in begun.items():
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
    safetensors.torch.save_file({**begun, "3.bias": torch.zeros(3)}, tmp_path / "begun.safetensors")
    assert not any(reused(run(RunConfig.load(str(path)))).values())
    record = json.loads((tmp_path / "runs/small/student/training.json").read_text())
    assert len(record["what"]["initial"]) == 64 and np.isfinite(report.system("student").test.nll)

    path = write_config(tmp_path, student__initial="gone.safetensors", name="other")
    assert main(["run", str(path)]) == 2
    said = capsys.readouterr().err
    assert "gone.safetensors" in said and not (tmp_path / "runs/other").exists()
