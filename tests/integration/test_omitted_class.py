"""A student that never sees a class knows it from its teachers, once the bias of that class is corrected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.command import main
from tests.makers import write_config


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_a_class_that_the_student_never_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = {"epochs": 12, "batch_size": 16, "learning_rate": 5.0e-3}
    path = str(
        write_config(
            tmp_path,
            data__transfer_without=[1],
            ensemble__training=training,
            student__training=training,
            student__model__kwargs={"hidden": 24},
            distillation={"temperature": 8.0, "soft_weight": 1.0, "hard_weight": 0.0},
            evaluation__corrected_classes=[1],
        )
    )
    assert main(["run", path]) == 0
    report = json.loads((tmp_path / "runs/small/report.json").read_text())
    systems = {system["name"]: system for system in report["systems"]}
    right = {name: system["confusion"][1][1] for name, system in systems.items() if system["confusion"]}
    assert right["baseline"] == 0  # it never saw the class either, and has no teacher
    assert right["student-corrected"] > 0.8 * right["ensemble"] and right["student-corrected"] > right["student"]
    assert systems["student-corrected"]["test"]["accuracy"] > systems["student"]["test"]["accuracy"]
    (note,) = report["notes"]
    assert "`student-corrected` is the student with a bias of +" in note and "for the logit of 1" in note
    text = (tmp_path / "runs/small/report.md").read_text()
    assert note in text and "| student-corrected |" in text
    assert note in " ".join(capsys.readouterr().out.split())
    assert main(["run", path, "--set", "data.transfer_without=[]", "--set", "name=whole"]) == 0
    events = (tmp_path / "runs/whole/events.jsonl").read_text()
    assert "reused from run 'small': 3 of 3 members" in events and "the baseline" not in events


def test_wrong_classes_start_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_config(tmp_path))
    for key, expected in (
        (
            "evaluation.corrected_classes=[7]",
            "evaluation.corrected_classes: there is no class 7; expected a number from 0 to 2",
        ),
        ("evaluation.corrected_classes=[0, 1, 2]", "100% of the training labels are of these classes"),
        ("data.transfer_without=[7]", "data.transfer_without: there is no class 7"),
    ):
        assert main(["run", path, "--set", key]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
