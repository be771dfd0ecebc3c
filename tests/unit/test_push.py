"""`report RUN --push`: all of it from the given folder, which another user may have made, and without running code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.cli.command import main
from orchestrator.config.run_config import RunConfig
from orchestrator.export import student_model
from orchestrator.observers import mlflow_uri, tracking_record
from orchestrator.reporting import files
from orchestrator.reporting.report import (
    Calibration,
    CurvePoint,
    Latency,
    Report,
    Role,
    SoftTargets,
    System,
    TestMetrics,
)
from orchestrator.run_folder import owned, paths
from orchestrator.stages import trained
from tests.makers import write_config
from workers import storage
from workers.artifacts.catalogue import Catalogue
from workers.artifacts.kinds import NETWORK
from workers.data import loading
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.training.loop import Epoch

ROLES: dict[str, Role] = {
    "member-0": "member", "member-1": "member", "ensemble": "ensemble", "baseline": "baseline", "student": "student",
}  # fmt: skip


def system(name: str, role: Role, accuracy: float) -> System:
    return System(
        name=name,
        role=role,
        parameters=75,
        test=TestMetrics(examples=400, accuracy=accuracy, nll=0.5, ece=0.02),
        latency_ms=Latency(p50=0.1, p99=0.2),
        calibration=Calibration(examples=[400], confidence=[accuracy], accuracy=[accuracy]),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run as one leaves it, made without Ray, and the database of an MLflow without runs."""
    place = tmp_path_factory.mktemp("finished")
    config = RunConfig.load(str(write_config(place, ensemble__size=2, tracking__registered_model=None)))
    folder = config.folder
    dataset = loading.load(config.data, config.seed)
    owned.mark(folder)
    storage.write_text(storage.join(folder, "config.yaml"), config.to_redacted_yaml())
    storage.write_text(
        storage.join(folder, "events.jsonl"), json.dumps({"event": "run", "mlflow_run": "a" * 32}) + "\n"
    )
    tracking_record.write(tracking_record.of(config, dataset), folder)
    history = [_epoch(k) for k in range(2)]
    for name, role in ROLES.items():
        if role == "ensemble":
            continue
        model = config.ensemble.model if role == "member" else config.student.model
        key = NETWORK.key(name=name)
        weights = storage.join(paths.RunFolder(folder).network(key.digest), model.weights_name)
        member = Member(name, model, weights)
        checkpoints.save(torch_module.build(model, seed=len(name)).state_dict(), member.weights)
        trained.commit(Catalogue(config.storage, config.name), member, key, history)
        trained.show(member, storage.join(folder, name.replace("member-", "members/")))
    with pytest.MonkeyPatch.context() as untried:
        untried.setattr(student_model, "_check_answers", lambda *_: None)
        examples = np.asarray(dataset.test.x[:2])
        assert student_model.write(member, examples, dataset.classes, storage.join(folder, "student")) is None
    found = Report(
        name=config.name,
        folder=folder,
        classes=3,
        systems=[system(name, role, 0.7 + k / 100) for k, (name, role) in enumerate(ROLES.items())],
        gain_transferred=0.5,
        curve=[CurvePoint(members=k, accuracy=0.7, nll=0.5) for k in (1, 2)],
        soft_targets=SoftTargets(
            examples=600, bytes=9000, temperature=2.0, combine="arithmetic", seconds=1.0, reused=False
        ),
        stages=[],
        bound_by="student",
    )
    files.write(found, folder)
    mlflow_uri.make_whole(place / "empty.db")
    return place


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same folder elsewhere, and a tracker beside it."""
    shutil.copytree(finished / "runs/small", tmp_path / "copied")
    shutil.copy(finished / "empty.db", tmp_path / "mlflow.db")
    return tmp_path / "copied"


def push(folder: Path, *more: str) -> list[str]:
    return ["report", str(folder), "--push", "--set", f"tracking.uri=sqlite:///{folder.parent}/mlflow.db", *more]


def sent(folder: Path) -> tuple[MlflowClient, dict[str, Run]]:
    """The client, and the runs by name; the parent is called `run`."""
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    found = [] if experiment is None else client.search_runs([experiment.experiment_id])
    names = {"small": "run"}
    return client, {names.get(run.info.run_name, run.info.run_name): client.get_run(run.info.run_id) for run in found}


CANARY = """
from pathlib import Path
Path({flown!r}).touch()
def fly(*_, **__):
    Path({flown!r}).touch()
    raise SystemExit("a factory was called")
"""
SCRIPT = """
import sys
from orchestrator.cli.command import main
status = main({command!r})
assert not {{"canary", "models"}} & set(sys.modules), "a module of the folder was imported"
sys.exit(status)
"""


@pytest.mark.parametrize("factory", ["canary:fly", "os:system"])
def test_no_code_runs_and_nothing_but_the_given_folder_is_read(finished: Path, copied: Path, factory: str) -> None:
    """Its configuration names other code everywhere, and its data and storage are gone."""
    flown = copied.parent / "flown"
    (copied / "canary.py").write_text(CANARY.format(flown=str(flown)))
    values = yaml.safe_load((copied / "config.yaml").read_text())
    called = {"factory": factory, "folder": str(copied), "kwargs": {"command": f"touch {flown}"}}
    values["data"] = {"kind": "python", "augment": called, **called}
    values["ensemble"]["model"] |= called
    values["student"]["model"] |= called
    values["evaluation"]["metrics"] = [called]
    values["storage"] = str(copied.parent / "gone")
    (copied / "config.yaml").write_text(yaml.safe_dump(values))
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{copied}"}
    command = [sys.executable, "-c", SCRIPT.format(command=push(copied))]
    done = subprocess.run(command, cwd=copied, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stderr
    assert re.fullmatch(r"'small' is complete in the tracker sqlite:///.*mlflow\.db\n", done.stderr), done.stderr
    assert not flown.exists() and not (copied.parent / "gone").exists()

    client, runs = sent(copied)
    assert runs.keys() == {"run", *ROLES} and {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["run"].data.metrics["student_test_accuracy"] == pytest.approx(0.74)
    assert runs["run"].data.metrics["gain_transferred"] == 0.5
    splits = {each.dataset.name: each.dataset for each in runs["run"].inputs.dataset_inputs}
    assert splits.keys() == {"train", "validation", "test"}
    assert json.loads(splits["test"].source) == {"uri": str(finished / "test.npz")}
    assert len(runs["run"].data.tags["stillhouse.code.student"]) == 64
    steps = [metric.step for metric in client.get_metric_history(runs["student"].info.run_id, "train_loss")]
    assert steps == [1, 2]
    made = client.get_logged_model(runs["member-1"].outputs.model_outputs[0].model_id)
    weights = Path(made.tags["stillhouse.uri"])
    assert weights.parent.parent == copied / "trained"
    assert weights.read_bytes() == (copied / "members/1/model.safetensors").read_bytes()
    (version,) = client.search_model_versions("name = 'tests-student'")
    assert version.tags["stillhouse.inputs"] == "float32 [N, 8]"
    model = yaml.safe_load((Path(version.source.removeprefix("file://")) / "MLmodel").read_text())
    assert model["model_id"] == version.tags["stillhouse.model"] and model["run_id"] == runs["student"].info.run_id
    assert str(finished) not in json.dumps(model) and str(copied) not in json.dumps(model)


def test_a_second_push_adds_nothing(copied: Path) -> None:
    counts = []
    for _ in range(2):
        assert main(push(copied)) == 0
        client, runs = sent(copied)
        metrics = {
            (name, key): len(client.get_metric_history(run.info.run_id, key))
            for name, run in runs.items()
            for key in run.data.metrics
        }
        models_ = client.search_logged_models([runs["run"].info.experiment_id])
        counts.append((metrics, len(models_), len(client.search_model_versions("name = 'tests-student'"))))
    assert counts[0] == counts[1] and counts[0][1:] == (3, 1)


def test_a_folder_that_no_run_wrote_is_refused_before_anything_is_sent(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = copied / "student/mlflow/pyfunc.py"
    before = served.read_text()
    served.write_text("import os")
    assert main(push(copied)) == 2
    assert f"'{served}' is not what a run wrote: its sha256 is not the one on record" in capsys.readouterr().err
    served.write_text(before)
    record = json.loads((copied / "tracking.json").read_text())
    (copied / "tracking.json").write_text(json.dumps(record | {"tags": {"mlflow.parentRunId": "x"}}))
    assert main(push(copied)) == 2
    assert "tracking.json': not what a run wrote (tags" in capsys.readouterr().err
    report = copied / "report.json"
    report.write_text(report.read_text().replace('"member-1"', '"member-../../x"'))
    assert main(push(copied)) == 2
    assert "a system is called 'member-../../x'" in capsys.readouterr().err
    assert not sent(copied)[1]


def test_systems_that_the_run_did_not_train_are_sent_without_epochs(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    student = report["systems"][-1]
    others = {"student-tiny": "student", "student-corrected": "further", "in-production": "further"}
    report["systems"] += [{**student, "name": name, "role": role} for name, role in others.items()]
    (copied / "report.json").write_text(json.dumps(report))
    assert main(push(copied)) == 0
    _, runs = sent(copied)
    assert runs.keys() == {"run", *ROLES, *others}


def test_what_an_earlier_version_wrote_is_sent_without_the_rest(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copied / "tracking.json").unlink()
    shutil.rmtree(copied / "student/mlflow")
    assert main(push(copied)) == 0
    assert "neither data sets nor code" in caplog.text and "does not get the student" in caplog.text
    client, runs = sent(copied)
    assert runs["run"].data.metrics["test_accuracy"] and not client.search_registered_models()
    assert runs["run"].data.params["student.model.kwargs.hidden"] == "6"


def test_the_student_can_be_left_out(copied: Path) -> None:
    (copied / "student/mlflow/pyfunc.py").write_text("import os")
    assert main(push(copied, "--set", "tracking.registered_model=false")) == 0
    client, runs = sent(copied)
    assert runs.keys() == {"run", *ROLES} and not client.search_registered_models()


def _epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number, train_loss=0.5, validation_accuracy=0.8 + number / 10, validation_nll=0.6, seconds=1.0,
        examples=600, ended_s=1.7e9 + number,
    )  # fmt: skip
