"""Whole runs with members of several kinds, and with a student that is no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.command import main
from orchestrator.config.run_config import RunConfig
from tests.makers import write_config
from tests.unit.test_fits import MODELS as ESTIMATORS
from tests.unit.test_groups import NET, of_all_kinds
from tests.unit.test_predictors import OWN
from workers.inference import teacher
from workers.inference.teacher import Member

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]


KEPT: dict[str, Any] = {"distillation__keep": "members", "student__training__learning_rate": 0.05}
FURTHER = {
    "graph": {"model": {"kind": "onnx", "path": "c.onnx"}},
    "linear": {"model": {"kind": "sklearn", "path": "d.skops"}},
    "network": {"model": NET, "checkpoint": "0.pt"},
}


def go(folder: Path, **changes: Any) -> dict[str, Any]:
    """The report of a run whose configuration has its estimators and kinds beside it."""
    ensemble = of_all_kinds(folder)
    path = write_config(folder, **{"ensemble": ensemble, **changes})
    (folder / "trees.py").write_text(ESTIMATORS)
    (folder / "own.py").write_text(OWN)
    assert main(["run", str(path)]) == 0
    found: dict[str, Any] = json.loads((folder / "runs/small/report.json").read_text())
    return found


def test_members_of_every_kind_and_a_network_as_their_student(tmp_path: Path) -> None:
    report = go(tmp_path, **KEPT)
    members = [system for system in report["systems"] if system["role"] == "member"]
    assert [system["name"] for system in members] == [f"member-{k}" for k in range(8)]
    assert all(system["test"]["accuracy"] > 0.6 and system["parameters"] > 20 for system in report["systems"])
    folder = tmp_path / "runs" / "small"
    manifest = json.loads(next(folder.glob("soft_targets/*/manifest.json")).read_text())
    assert manifest["complete"] and [each["name"] for each in manifest["members"]] == [s["name"] for s in members]
    assert {path.name for path in (folder / "members" / "5").iterdir()} >= {"model.skops", "training.json"}
    assert (folder / "members" / "7" / "model.bin").is_file() and not (folder / "members" / "2").exists()
    again = go(tmp_path, **KEPT)
    reused = {stage["name"]: stage["reused"] for stage in again["stages"]}
    assert reused["members"] and reused["soft targets"] and reused["student"] and reused["baseline"]
    assert [s["test"] for s in again["systems"]] == [s["test"] for s in report["systems"]]
    beside = go(tmp_path, **KEPT, evaluation__systems=FURTHER)["systems"]
    assert [s["test"] for s in beside[:-3]] == [s["test"] for s in report["systems"]]
    assert [(s["name"], s["role"]) for s in beside[-3:]] == [(name, "further") for name in sorted(FURTHER)]
    of_name = {s["name"]: (s["test"], s["parameters"]) for s in beside}
    assert of_name["linear"] == of_name["member-4"] and of_name["network"] == of_name["member-2"]
    assert "| network |" in (folder / "report.md").read_text()
    other = go(tmp_path, **KEPT, distillation__temperature=4.0)
    reused = {stage["name"]: stage["reused"] for stage in other["stages"]}
    assert reused["members"] and not reused["soft targets"]


@pytest.mark.parametrize("name", ["boosted", "regressor"])
def test_a_student_that_is_no_network(tmp_path: Path, name: str) -> None:
    student = {"model": {"kind": "sklearn", "factory": f"trees:{name}"}, "training": {}}
    report = go(tmp_path, student=student, data__unlabeled="more.npz", tracking__registered_model="")
    figures = {system["role"]: system for system in report["systems"]}
    assert figures["student"]["test"]["accuracy"] > 0.6 and figures["baseline"]["test"]["accuracy"] > 0.6
    assert figures["student"]["parameters"] > 100 and figures["student"]["latency_ms"]["p50"] > 0
    folder = tmp_path / "runs" / "small"
    config = RunConfig.from_mapping(yaml.safe_load((folder / "config.yaml").read_text()), str(tmp_path))
    for role in ("baseline", "student"):
        kept = teacher.load(Member(role, config.student.model, str(folder / role / "model.skops")))
        assert kept.parameters == figures[role]["parameters"]
    assert (folder / "student" / "mlflow" / "artifacts" / "model.skops").is_file()
    weights = (folder / "student" / "model.skops").read_bytes()
    assert main(["run", str(tmp_path / "config.yaml"), "--fresh"]) == 0
    assert (folder / "student" / "model.skops").read_bytes() == weights  # the same to the byte
