"""Students that teach each other: each generation is a run, and the report compares them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.command import main
from orchestrator.config.run_config import RunConfig
from tests.makers import write_config
from workers.errors import RequestError


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_each_student_teaches_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_config(tmp_path, ensemble__size=1, generations=3))
    assert main(["run", path]) == 0
    shown = capsys.readouterr().out
    assert "Generations" in shown and "generation 3" in shown and "all together" in shown

    def report_of(name: str) -> Any:
        return json.loads((tmp_path / "runs" / name / "report.json").read_text())

    def accuracy_of(report: Any, role: str) -> float:
        return next(s["test"]["accuracy"] for s in report["systems"] if s["role"] == role)

    found = report_of("small")
    figures = found["generations"]
    assert [each["name"] for each in figures] == ["generation 1", "generation 2", "generation 3", "all together"]
    for number in (1, 2, 3):
        own = report_of(f"small-generation-{number}")
        assert figures[number - 1]["accuracy"] == pytest.approx(accuracy_of(own, "student"))
        assert figures[number - 1]["accuracy_interval"] == next(
            s["test"]["accuracy_interval"] for s in own["systems"] if s["role"] == "student"
        )
        if number > 1:  # whose only teacher is the student before
            assert accuracy_of(own, "ensemble") == figures[number - 2]["accuracy"]
            assert figures[number - 1]["over"]["accuracy"] == pytest.approx(
                figures[number - 1]["accuracy"] - figures[number - 2]["accuracy"]
            )
    assert accuracy_of(found, "student") == figures[0]["accuracy"]
    weights = [(tmp_path / f"runs/small-generation-{k}/student/model.safetensors").read_bytes() for k in (1, 2)]
    assert weights[0] != weights[1] and weights[0] == (tmp_path / "runs/small/student/model.safetensors").read_bytes()
    events = (tmp_path / "runs/small/events.jsonl").read_text()
    assert "reused from run 'small-generation-1': the student" in events
    assert main(["run", path]) == 0  # again: all of it is complete
    assert report_of("small")["generations"] == figures


WRONG = {
    "students": {"generations": 2, "student": None, "students": {"a": {}}},
    "member 0": {"generations": 2, "distillation": {"hidden": {"member": 1}}},
}


@pytest.mark.parametrize("expected", WRONG)
def test_what_cannot_have_generations(expected: str, tmp_path: Path) -> None:
    changes = dict(WRONG[expected])
    if "students" in changes:
        given = RunConfig.load(str(write_config(tmp_path))).student.model_dump(mode="json", exclude_none=True)
        changes["students"] = {"a": given}
    with pytest.raises(RequestError, match=f"generations.*{expected}|{expected}.*generations"):
        RunConfig.load(str(write_config(tmp_path, **changes)))


def test_the_teachers_of_a_generation(tmp_path: Path) -> None:
    changes = {"ensemble__combine": "geometric", "ensemble__on_member_loss": "fail"}
    config = RunConfig.load(str(write_config(tmp_path, generations=3, **changes)))
    first, second, third = config.of_generations()
    assert first.ensemble == config.ensemble and first.student == config.student
    assert [each.student.seed for each in (first, second, third)] == [0, 1, 2]
    (teacher,) = third.ensemble.groups
    assert teacher.given == (f"{second.folder}/student/model.safetensors",) and teacher.model == config.student.model
    assert third.ensemble.combine == "geometric" and third.ensemble.on_member_loss == "fail"
    assert third.ensemble.count == 1
    together = config.of_all_generations().ensemble
    assert together.count == 3 and len(together.groups[0].given or ()) == 3
    assert config.model_copy(update={"generations": 1}).of_generations() == []
