"""What a reviewer finds in MLflow: the answer on the run's page, data, code, lineage, and a student to load."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from tests import commands
from tests.makers import write_config
from workers.evaluation import metrics
from workers.inference import teacher
from workers.inference.teacher import Member

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_ray: None) -> Path:
    """Of a run, and of the same once more."""
    folder = tmp_path_factory.mktemp("review")
    config = RunConfig.load(
        str(write_config(folder, report={"core_hour_price": 3600.0}, tracking__registered_model=None))
    )
    run(config)
    run(config)
    return folder


def runs(folder: Path, tracker: str = "mlflow.db") -> tuple[MlflowClient, list[dict[str, Run]]]:
    """The client, and each run with its nested ones by name, the oldest first; the parent is called `run`."""
    client = MlflowClient(f"sqlite:///{folder}/{tracker}")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    ids = [experiment.experiment_id]
    found = []
    for parent in client.search_runs(ids, "tags.`stillhouse.role` = 'run'", order_by=["attributes.start_time"]):
        nested = client.search_runs(ids, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        by_name = {each.data.tags["mlflow.runName"]: client.get_run(each.info.run_id) for each in nested}
        found.append({"run": client.get_run(parent.info.run_id), **by_name})
    return client, found


def test_the_page_of_a_run_answers(folder: Path) -> None:
    _, (first, _) = runs(folder)
    note = first["run"].data.tags["mlflow.note.content"]
    report = json.loads((folder / "runs/small/report.json").read_text())
    assert note.startswith("**The ensemble has ") and " errors " in note.split("```")[1]
    assert "plots%2Foverview.png&run_uuid=" + first["run"].info.run_id in note
    for system in report["systems"]:
        assert f"runs/{first[system['name']].info.run_id})" in note
    figures = first["run"].data.metrics
    assert {"core_hours", "gpu_hours", "price", "student_validation_accuracy", "test_accuracy"} <= figures.keys()
    assert figures["price"] == pytest.approx(3600 * figures["core_hours"]) and figures["gpu_hours"] == 0
    assert figures["test_accuracy"] == first["student"].data.metrics["test_accuracy"]
    assert (
        f"made by [member-0](#/experiments/1/runs/{first['member-0'].info.run_id})"
        in (first["student"].data.tags["mlflow.note.content"])
    )


def test_the_curve_is_a_chart(folder: Path) -> None:
    client, (first, _) = runs(folder)
    points = client.get_metric_history(first["run"].info.run_id, "accuracy_by_members")
    report = json.loads((folder / "runs/small/report.json").read_text())
    assert [(p.step, p.value) for p in points] == [(p["members"], p["accuracy"]) for p in report["curve"]]
    history = client.get_metric_history(first["run"].info.run_id, "baseline_validation_accuracy")
    assert [point.step for point in history] == [1, 2]


def test_data_and_code_are_known(folder: Path) -> None:
    _, (first, second) = runs(folder)
    digests = []
    for parent in (first["run"], second["run"]):
        inputs = {each.dataset.name: each.dataset for each in parent.inputs.dataset_inputs}
        files = {name: Path(json.loads(each.source)["uri"]).name for name, each in inputs.items()}
        assert files == {"train": "train.npz", "validation": "valid.npz", "test": "test.npz"}
        assert json.loads(inputs["test"].profile) == {"examples": 400, "shape": [8], "classes": 3}
        digests.append([inputs[name].digest for name in sorted(inputs)])
        assert len(parent.data.tags["stillhouse.code.student"]) == 64 and parent.data.tags["stillhouse.version"]
    assert digests[0] == digests[1] and len(set(digests[0])) == 3


def test_params_say_what_and_not_where(folder: Path) -> None:
    _, (first, _) = runs(folder)
    assert not {"name", "storage", "data.root", "tracking.uri"} & first["run"].data.params.keys()
    assert first["run"].data.params["student.model.kwargs.hidden"] == "6"
    assert first["student"].data.params["distillation.temperature"] == "2.0"
    assert {first[name].data.params["model.kwargs.hidden"] for name in ("member-0", "student")} == {"24", "6"}


def test_each_system_ends_when_it_does(folder: Path) -> None:
    _, (first, _) = runs(folder)
    ended = {name: each.info.end_time for name, each in first.items()}
    assert ended["member-0"] < ended["baseline"] < ended["student"] < ended["run"]
    assert all(each.info.status == "FINISHED" for each in first.values())


def test_the_student_is_a_model_that_answers_anywhere(folder: Path, tmp_path: Path) -> None:
    """In a process and a folder that know nothing of Stillhouse: its package comes with the model, and no pickle."""
    client, (first, second) = runs(folder)
    (version,) = client.search_model_versions("name = 'tests-student'")  # of two runs that made the same weights
    for each in (first, second):
        assert [o.model_id for o in each["student"].outputs.model_outputs] == [version.tags["stillhouse.model"]]
    model = client.get_logged_model(version.tags["stillhouse.model"])
    assert {m.key: m.value for m in model.metrics}["test_accuracy"] == first["student"].data.metrics["test_accuracy"]
    assert not list(folder.rglob("mlruns/**/*.pkl"))
    examples = np.load(folder / "test.npz")["x"][:50]
    np.save(tmp_path / "x.npy", examples)
    script = f"""
import sys
sys.path[:] = [place for place in sys.path if not place.endswith("{Path(__file__).parents[2].name}")]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///{folder}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/tests-student/1")
np.save("y.npy", model.predict(np.load("x.npy")))
import workers
assert "mlruns" in workers.__file__, workers.__file__
assert "ray" not in sys.modules and "orchestrator" not in sys.modules
"""
    commands.output(sys.executable, "-c", script, cwd=tmp_path)
    spec = RunConfig.load(str(folder / "config.yaml")).student.model
    student = teacher.load(Member("student", spec, str(folder / "runs/small/student/model.safetensors")))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), metrics.predict(student, examples))


def test_members_are_what_the_student_learned_from(folder: Path) -> None:
    client, (first, _) = runs(folder)
    learned = {client.get_logged_model(each.model_id).name for each in first["student"].inputs.model_inputs}
    assert learned == {"member-0", "member-1", "member-2"}
    made = client.get_logged_model(first["member-1"].outputs.model_outputs[0].model_id)
    kept, shown = Path(made.tags["stillhouse.uri"]), folder / "runs/small/members/1/model.safetensors"
    assert kept.parent.parent == folder / "runs/small/trained" and kept.read_bytes() == shown.read_bytes()


def test_another_tracker_gets_the_same_afterwards(folder: Path) -> None:
    for _ in range(2):  # the second time there is nothing to send
        command = ["report", str(folder / "runs/small"), "--push", "--set", f"tracking.uri=sqlite:///{folder}/2.db"]
        assert main(command) == 0
    client, (pushed,) = runs(folder, "2.db")
    _, (first, _) = runs(folder)
    assert pushed.keys() == first.keys()
    for name, each in pushed.items():
        here = {k: v for k, v in each.data.metrics.items() if "system/" not in k}
        assert here.keys() == {k for k in first[name].data.metrics if "system/" not in k}
        assert each.data.params == first[name].data.params
    assert len(client.search_model_versions("name = 'tests-student'")) == 1
    assert len(client.search_logged_models([pushed["run"].info.experiment_id])) == 4
    assert len(client.get_metric_history(pushed["student"].info.run_id, "validation_accuracy")) == 2
    assert len(pushed["student"].inputs.model_inputs) == 3 and len(pushed["run"].inputs.dataset_inputs) == 3


def test_a_model_can_be_kept_from_it(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    run(RunConfig.load(str(path)))
    client, (only,) = runs(tmp_path)
    assert only["run"].data.metrics["test_accuracy"] and not client.search_registered_models()
    assert mlflow.get_tracking_uri() != f"sqlite:///{tmp_path}/mlflow.db"
