"""A sweep on one Ray, and several students of one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.cli.command import main
from tests.makers import settings, write_config


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def events(folder: Path) -> str:
    return (folder / "events.jsonl").read_text()


PICKY = """

class Picky(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.net, self.hidden = mlp(hidden=hidden), hidden

    def forward(self, x):
        if self.hidden == 7:
            raise ValueError("broken")
        return self.net(x)


def picky(hidden):
    return Picky(hidden)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_a_grid_shares_what_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = {"uri": uri, "experiment": "grid"}
    path = str(write_config(tmp_path, tracking=tracking, student__model__factory="models:picky"))
    with (tmp_path / "models.py").open("a") as code:
        code.write(PICKY)
    asked = ["sweep", path, "--over", "distillation.temperature=1,4", "--over", "student.model.kwargs.hidden=4,7"]
    assert main(asked) == 1  # of four runs, two have a student that fails once it computes
    shown = capsys.readouterr()
    assert "2 of 4 runs failed" in shown.err and "best" in shown.out
    folder = tmp_path / "runs" / "small-sweep"
    found = load(folder / "sweep.json")
    assert [run["run"] for run in found["runs"] if not run["problem"]] == [
        "small-temperature-1-hidden-4", "small-temperature-4-hidden-4"
    ]  # fmt: skip
    assert all("broken" in run["problem"] for run in found["runs"] if run["problem"])
    assert (folder / "student.png").stat().st_size > 1000 and "| temperature | hidden |" in (
        folder / "sweep.md"
    ).read_text()
    second = events(tmp_path / "runs" / "small-temperature-4-hidden-4")
    for reused in ("3 of 3 members", "the baseline"):
        assert f"reused from run 'small-temperature-1-hidden-4': {reused}" in second
    assert '"stage": "soft targets"' in second and "logits" in second

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("grid")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`stillhouse.role` = 'sweep'")
    inner = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {run.info.run_name for run in inner} >= {"small-temperature-1-hidden-4", "small-temperature-4-hidden-4"}
    assert {each.path for each in client.list_artifacts(parent.info.run_id)} >= {
        "sweep.json",
        "sweep.html",
        "student.png",
    }
    assert "data:image/png" in (folder / "sweep.html").read_text()
    assert parent.info.status == "FINISHED"

    assert main([*asked[:-1], "student.model.kwargs.hidden=4", "--json"]) == 0  # again, without the broken ones
    again = json.loads(capsys.readouterr().out)
    assert [run["student"] for run in again["runs"]] == [run["student"] for run in found["runs"] if not run["problem"]]
    assert len(client.search_runs([experiment.experiment_id], "tags.`stillhouse.role` = 'sweep'")) == 1


def test_wrong_sweeps_start_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_config(tmp_path))
    for asked, expected in (
        (["--over", "distillation.temprature=1,2"], "did you mean 'temperature'"),
        (["--over", "distillation.temperature=0,2"], "distillation.temperature"),
        (["--over", "distillation.temperature="], "expected KEY=V1,V2"),
        (["--over", "distillation.temperature=1..4"], "expected `--trials N`"),
        (["--over", "student.model.kwargs.hiden=4,8"], "--over student.model.kwargs.hiden=4: student.model: factory"),
        (["--over", "student.model.kwargs.hidden=4,wide"], "--over student.model.kwargs.hidden=wide: student.model:"),
        (["--over", "ensemble.model.kwargs={hidden: 4},{width: 8}"], "ensemble.model: factory 'models:mlp' raised"),
        (["--over", "student.model.kwargs.hiden=4..8", "--trials", "3"], "unexpected keyword argument 'hiden'"),
        (["--over", "student.model.factory=models:mlp,models:cnn"], "no function or class 'cnn'"),
        (["--over", "distillation.temperature=1,2", "--batch", "2"], "it belongs to a search with `--trials N`"),
        (
            ["--over", "distillation.temperature=1..4", "--trials", "2", "--batch", "0"],
            "--batch: 0; expected at least 1",
        ),
    ):
        assert main(["sweep", path, *asked]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_sweep_leaves_a_folder_alone_that_is_none_of_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = str(write_config(tmp_path)), tmp_path / "runs" / "small-sweep"
    folder.mkdir(parents=True)
    (folder / "student.png").write_text("mine")
    assert main(["sweep", path, "--over", "distillation.temperature=1,2"]) == 2
    assert "holds student.png and no sweep.json" in capsys.readouterr().err
    assert (folder / "student.png").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_several_students_of_one_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = settings(tmp_path)["student"]
    wide = {**student, "model": {**student["model"], "kwargs": {"hidden": 32}}}
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    changes: dict[str, Any] = {"student": None, "students": {"small": student, "wide": wide}}
    path = str(write_config(tmp_path, **changes, tracking={"uri": uri, "experiment": "several"}))
    assert main(["run", path]) == 0
    assert "Students: accuracy against latency and size" in capsys.readouterr().out
    found, other = load(tmp_path / "runs/small/report.json"), load(tmp_path / "runs/small-wide/report.json")
    assert [(each["name"], each["student"]) for each in found["students"]] == [
        ("small", "student"), ("wide", "student-wide")
    ]  # fmt: skip
    systems = {system["name"]: system for system in found["systems"]}
    of_other = {system["name"]: system for system in other["systems"]}
    assert systems["student-wide"]["test"] == of_other["student"]["test"]
    assert systems["student-wide"]["parameters"] > systems["student"]["parameters"]
    assert systems["student"]["validation_accuracy"] is not None
    own = events(tmp_path / "runs/small")
    assert "reused from run 'small-wide': 3 of 3 members" in own and "the soft targets" in own
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("several")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`stillhouse.run` = 'small'")
    by_name = {run.info.run_name: run for run in runs}
    assert by_name["student-wide"].data.params["model.kwargs.hidden"] == "32"
    assert by_name["student-wide"].data.metrics["test_accuracy"] == pytest.approx(
        systems["student-wide"]["test"]["accuracy"]
    )
