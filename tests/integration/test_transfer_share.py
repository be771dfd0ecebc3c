"""Student and baseline learn from a share of the examples; members, which learn from all, are reused for another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.command import main
from tests.makers import write_config


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_a_share_of_the_transfer_set(tmp_path: Path) -> None:
    path = str(write_config(tmp_path))
    transfer = {}
    for name, share in (("whole", "null"), ("half", "0.5"), ("tenth", "0.1"), ("again", "0.1")):
        assert main(["run", path, "--set", f"data.transfer_share={share}", "--set", f"name={name}"]) == 0
        report = json.loads((tmp_path / f"runs/{name}/report.json").read_text())
        transfer[name] = report["soft_targets"]["examples"]
        reused = {stage["name"]: stage["reused"] for stage in report["stages"]}
        assert reused["members"] is (name != "whole")
        assert reused["baseline"] is reused["soft targets"] is reused["student"] is (name == "again")
        epochs = [each for role in ("baseline", "student") for each in report["training"][role]]
        assert all(0 <= each["train_accuracy"] <= 1 for each in epochs)
    assert transfer["half"] == round(0.5 * transfer["whole"]) and transfer["tenth"] == round(0.1 * transfer["whole"])


def test_a_wrong_share_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_config(tmp_path))
    for share, expected in (("1.5", "data.transfer_share"), ("0.00001", "labelled training examples")):
        assert main(["run", path, "--set", f"data.transfer_share={share}"]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
