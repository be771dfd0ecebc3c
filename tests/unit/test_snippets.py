"""The lines that a run prints at its end are run here as a person would paste them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import RunConfig
from orchestrator.cli import job_folder, presentation, snippets, submit
from orchestrator.cluster import environment
from orchestrator.observers.terminal import Screen
from orchestrator.reporting.report import Report
from orchestrator.stages.places import COPIES
from tests.makers import write_config
from workers.models import checkpoints, torch_module
from workers.specs.models import ModelSpec, SklearnModel

ADD = "\nimport sys, torch\nassert 'workers' not in sys.modules\ntorch.save(student(torch.ones(2, 8)), sys.argv[1])\n"


def shown(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a run of `config` ends with."""
    report = Report.model_construct(folder=config.folder, page="#/experiments/1/runs/abc?workflowType=machine_learning")
    screen = Screen()
    presentation.where_next(report, config, screen)
    return capsys.readouterr().out.splitlines()


def test_the_printed_lines_load_the_student_in_plain_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "it's a folder"
    uri = f"sqlite:///{place}/ml flow.db"
    config = RunConfig.load(str(write_config(place, name="digits", tracking={"uri": uri})))
    student = torch_module.build(config.student.model, seed=5).eval()
    weights = f"{config.folder}/student/model.safetensors"
    checkpoints.save(student.state_dict(), weights)
    lines = shown(config, capsys)
    first = next(n for n, line in enumerate(lines) if line.startswith("Student:"))
    assert weights in lines[first] and len(lines[first + 1 :]) == 3
    script, answers = "\n".join(lines[first + 1 :]) + ADD, tmp_path / "y.pt"
    command = [sys.executable, "-I", "-c", script, str(answers)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(answers, weights_only=True), student(torch.ones(2, 8)).detach())

    commands = {
        line.partition(":")[0]: shlex.split(line.partition(":")[2].partition(", then")[0]) for line in lines[1:3]
    }
    assert commands["MLflow"] == ["mlflow", "ui", "--backend-store-uri", uri]
    assert commands["Again"] == ["stillhouse", "report", config.folder]


def test_a_fitted_student_is_loaded_by_skops(tmp_path: Path) -> None:
    import skops.io
    from sklearn.tree import DecisionTreeClassifier

    tree, weights = DecisionTreeClassifier().fit([[0], [1]], [0, 1]), str(tmp_path / "model.skops")
    skops.io.dump(tree, weights)
    found: dict[str, Any] = {}
    exec(snippets.load(SklearnModel(kind="sklearn", factory="a:b"), weights), found)
    assert found["types"] == ["sklearn.tree._tree.Tree"] and found["student"].predict([[1]]) == [1]


@pytest.mark.parametrize(
    ("kwargs", "call"),
    [
        ({"hidden": 8, "dropout": 0.5, "name": "it's"}, """mlp(hidden=8, dropout=0.5, name="it's")"""),
        ({"class": 3}, "mlp(**{'class': 3})"),
        ({}, "mlp()"),
    ],
)
def test_the_factory_is_called_as_the_configuration_does(kwargs: dict[str, Any], call: str) -> None:
    model = ModelSpec(factory="nets.small:mlp", kwargs=kwargs, folder="/nowhere")
    text = snippets.load_in_torch(model, "s3://bucket/runs/digits/student/model.safetensors")
    assert f"from nets.small import mlp; student = {call}\n" in text and "sys.path" not in text
    assert "fsspec.open('s3://bucket/runs/digits/student/model.safetensors')" in text
    compile(text, "printed", "exec")


def test_weights_elsewhere_are_loaded_too(tmp_path: Path) -> None:
    model = ModelSpec(factory="torch.nn:Linear", kwargs={"in_features": 8, "out_features": 3})
    module = torch_module.build(model, seed=1)
    checkpoints.save(module.state_dict(), "memory://snippets/model.safetensors")
    found: dict[str, Any] = {}
    exec(snippets.load_in_torch(model, "memory://snippets/model.safetensors"), found)
    assert torch.equal(found["student"].weight, module.state_dict()["weight"]) and not found["student"].training


def test_paths_of_a_job_are_those_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a #2: b"
    place.mkdir()
    monkeypatch.chdir(place)
    config = RunConfig.load(str(write_config(place, storage="runs", tracking__uri="sqlite:///ml.db")))
    again = RunConfig.load(str(write_config(tmp_path)), submit._as_here(config))
    assert (again.storage, again.tracking.uri) == (f"{place}/runs", f"sqlite:///{place}/ml.db")


def test_a_job_names_the_folder_that_was_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / COPIES / "_ray_pkg_0" / job_folder.NAME / "nets"
    copy.mkdir(parents=True)
    (copy / "small.py").touch()
    model = ModelSpec(factory="small:mlp", folder=str(copy))
    assert "sys" not in snippets.load_in_torch(model, "/runs/digits/student/model.safetensors")
    monkeypatch.setenv(environment.SENT_FROM, "/home/ada/digits")
    text = snippets.load_in_torch(model, "/runs/digits/student/model.safetensors")
    assert text.startswith("import sys, safetensors.torch; sys.path.insert(0, '/home/ada/digits/nets')\n")
