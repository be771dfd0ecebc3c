"""Whole runs on one small Ray: the contract of the folder, the report and MLflow, and what must not change a result."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from orchestrator.reporting.report import Report
from tests import commands
from tests.makers import write_config
from workers import ensemble
from workers.models import torch_module

pytestmark = pytest.mark.usefixtures("small_ray")


def go(folder: Path, **changes: Any) -> Report:
    return run(RunConfig.load(str(write_config(folder, **changes))))


def student(folder: Path) -> torch.Tensor:
    return torch.cat([v.flatten() for v in safetensors.torch.load_file(folder / "student/model.safetensors").values()])


def stores(folder: Path) -> list[Path]:
    return sorted((folder / "runs/small/soft_targets").iterdir())


@pytest.fixture(scope="module")
def finished(small_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run with unlabelled data and a metric of its own. Tests read it, and change a copy (`copied`)."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_config(
        folder,
        data__unlabeled="more.npz",
        student__training__learning_rate=0.05,
        evaluation__metrics=[{"factory": "metric:top2", "kwargs": {"scale": 1.0}}],
        report={"accuracy": "hit rate", "paper": {"source": "a paper", "student": {"accuracy": 0.5}}},
    )
    (folder / "metric.py").write_text(
        "import numpy as np\n"
        "def top2(probabilities, labels, scale):\n"
        "    best = np.argsort(-probabilities, 1)[:, :2]\n"
        "    return {'top2_rate': scale * float((best == labels[:, None]).any(1).mean())}\n"
    )
    assert main(["run", str(path)]) == 0
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run for a test that changes it; it has the first run's data, models and tracker too."""
    folder = tmp_path / "copied"
    shutil.copytree(finished, folder)
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace(str(finished), str(folder)))
    return folder


def test_the_report_keeps_its_contract(finished: Path) -> None:
    found = json.loads((finished / "runs/small/report.json").read_text())
    assert found["status"] == "complete" and found["name"] == "small"
    roles = [system["role"] for system in found["systems"]]
    assert roles == ["member"] * 3 + ["ensemble", "baseline", "student"]
    for system in found["systems"]:
        assert system["test"]["examples"] == 400 and 0 < system["test"]["accuracy"] < 1
        assert system["test"]["nll"] > 0 and 0 <= system["test"]["ece"] <= 1
        assert system["test"]["top2_rate"] > system["test"]["accuracy"]
        assert 0 < system["latency_ms"]["p50"] <= system["latency_ms"]["p99"]
    accuracy = {s["role"]: s["test"]["accuracy"] for s in found["systems"]}
    assert min(accuracy.values()) > 0.6, "each has learnt: one of three classes is a guess"
    gain = accuracy["ensemble"] - accuracy["baseline"]
    if gain > 0:
        expected = (accuracy["student"] - accuracy["baseline"]) / gain
        assert found["gain_transferred"] == pytest.approx(expected)
    else:
        assert found["gain_transferred"] is None
    parameters = {s["role"]: s["parameters"] for s in found["systems"]}
    assert parameters["member"] == 8 * 24 + 24 + 24 * 3 + 3 and parameters["ensemble"] == 3 * parameters["member"]
    assert [point["members"] for point in found["curve"]] == [1, 2, 3]
    assert found["curve"][-1]["accuracy"] == pytest.approx(accuracy["ensemble"])
    nll = {s["name"]: s["test"]["nll"] for s in found["systems"]}
    assert nll["ensemble"] <= np.mean([nll[f"member-{k}"] for k in range(3)]), "as Jensen has it"
    assert found["curve"][-1]["nll"] == pytest.approx(nll["ensemble"])
    assert found["soft_targets"]["examples"] == 900 and found["soft_targets"]["bytes"] > 900 * 3
    assert found["bound_by"] in ("teacher", "driver", "student")
    answers = found["agreement"]
    assert sum(answers.values()) == 400
    wrong = {s["role"]: round(400 * (1 - s["test"]["accuracy"])) for s in found["systems"]}
    both_wrong = answers["wrong_alike"] + answers["wrong_otherwise"]
    assert (wrong["ensemble"], wrong["student"]) == (answers["gained"] + both_wrong, answers["lost"] + both_wrong)
    assert [each["values"] for each in found["examples"]] == [
        [float(f"{value:.4g}") for value in np.load(finished / "test.npz")["x"][each["example"]].tolist()]
        for each in found["examples"]
    ]
    assert [each["epoch"] for each in found["training"]["student"]] == [1, 2]
    command, written = found["origin"]["command"], (finished / "runs/small/report.html").read_text()
    assert command == f"stillhouse run {finished / 'config.yaml'}" and command in written
    assert set(found["origin"]["data"]) == {"train", "validation", "test", "unlabeled"}
    stages = ["members", "predictions", "baseline", "soft targets", "student", "evaluation"]
    assert [s["name"] for s in found["stages"]] == stages


def test_the_folder_keeps_its_contract(finished: Path) -> None:
    folder = finished / "runs/small"
    for name in (
        "config.yaml",
        "report.md",
        "report.html",
        "events.jsonl",
        "baseline/model.safetensors",
        "members/2/model.safetensors",
    ):
        assert (folder / name).stat().st_size > 0
    assert not list(folder.rglob("checkpoints-*")), "what was only needed to resume is cleared away"
    events = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()]
    assert events[0] == "run" and events[-1] == "complete" and events.count("epoch") == 3 * 2 + 2 + 2
    assert "hit rate" in (folder / "report.md").read_text() and "a paper" in (folder / "report.md").read_text()


def test_soft_targets_are_the_members_mean(finished: Path) -> None:
    """Recomputed here from the members' files and the Parquet, with nothing of the run's own code but the model."""
    folder = finished / "runs/small"
    (store,) = (folder / "soft_targets").iterdir()
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["complete"] and manifest["temperature"] == 2.0 and manifest["classes"] == 3
    tables = [pq.read_table(store / part["path"]) for part in manifest["parts"]]
    ids = np.concatenate([t.column("example_id").to_numpy() for t in tables])
    stored = np.empty((900, 3))
    stored[ids] = np.concatenate([np.array(t.column("probabilities").to_pylist()) for t in tables])
    config = RunConfig.load(str(finished / "config.yaml"))
    x = np.concatenate([np.load(finished / "train.npz")["x"], np.load(finished / "more.npz")["x"]])
    each = []
    for k in range(3):
        module = torch_module.build(config.ensemble.model)
        module.load_state_dict(safetensors.torch.load_file(folder / f"members/{k}/model.safetensors"))
        each.append(torch.softmax(module(torch.from_numpy(x)).double() / 2.0, -1).detach())
    np.testing.assert_allclose(stored, torch.stack(each).mean(0).numpy(), atol=1e-6)
    np.testing.assert_allclose(ensemble.average(each).numpy(), torch.stack(each).mean(0).numpy(), atol=1e-12)


def test_mlflow_keeps_its_contract(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parent = next(r for r in found if r.data.tags["stillhouse.role"] == "run")
    children = [r for r in found if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(r.data.tags["stillhouse.role"] for r in children) == ["baseline", "ensemble"] + ["member"] * 3 + [
        "student"
    ]
    for child in children:
        for name in ("test_accuracy", "test_nll", "test_ece", "parameters", "latency_ms_p50", "latency_ms_p99"):
            assert name in child.data.metrics
        if child.data.tags["stillhouse.role"] != "ensemble":
            assert [m.step for m in client.get_metric_history(child.info.run_id, "train_loss")] == [1, 2]
            assert len(client.get_metric_history(child.info.run_id, "validation_accuracy")) == 2
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "comparison.json", "report.md", "report.html", "report.json", "plots"} <= artifacts
    assert {a.path for a in client.list_artifacts(parent.info.run_id, "plots")} == {
        f"plots/{name}.png" for name in ("overview", "training_curves", "accuracy_by_members", "accuracy_by_latency",
                                         "reliability", "confusion")
    }  # fmt: skip
    assert parent.data.params["distillation.temperature"] == "2.0" and parent.info.status == "FINISHED"
    report = json.loads((finished / "runs/small/report.json").read_text())
    assert parent.data.metrics.get("gain_transferred") == pytest.approx(report["gain_transferred"]), "none of no gain"


def test_the_same_again_computes_nothing(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("*/*.safetensors", "predictions/*")  # and not sums.safetensors, which is a part of the report
    kept = {p: p.stat().st_mtime_ns for kind in kinds for p in (copied / "runs/small").rglob(kind)}
    assert {p.stem for p in kept} >= {"model", "member-0-test", "student-test"}
    again = run(RunConfig.load(str(copied / "config.yaml")))
    reused = {"members", "baseline", "soft targets", "student"}
    assert {s.name for s in again.stages if s.reused} == reused  # latency and custom metrics are measured anew
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert main(["report", str(copied / "runs/small")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert any(
        words in shown for words in ("of the ensemble's gain", "no gain to transfer", "may be chance, so no share")
    )
    assert main(["report", str(copied / "runs/small"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["soft_targets"]["reused"] is True
    assert main(["compare", str(copied / "runs/small"), str(copied / "runs/small")]) == 0
    assert capsys.readouterr().out.count("small") == 2


@pytest.mark.slow
def test_damaged_predictions_are_made_again(copied: Path) -> None:
    (file,) = (copied / "runs/small/predictions").glob("member-1-test-*.safetensors")
    before = file.read_bytes()
    file.write_bytes(before[:200] + bytes(8) + before[208:])
    run(RunConfig.load(str(copied / "config.yaml")))
    assert file.read_bytes() == before


@pytest.mark.slow
def test_damaged_checkpoints_are_thrown_away(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a process leaves them that is killed while Ray Train writes its list of them."""
    place = copied / "runs/small/baseline"
    before, record = (place / "model.safetensors").read_bytes(), (place / "training.json").read_text()
    (kept,) = [p for p in (copied / "runs/small/trained").glob("*/training.json") if p.read_text() == record]
    checkpoints = place / f"checkpoints-{kept.parent.name}"
    checkpoints.mkdir()
    (checkpoints / "checkpoint_manager_snapshot.json").write_text('{"half": ')
    kept.unlink()
    run(RunConfig.load(str(copied / "config.yaml")))
    assert "its checkpoints are not what was written: thrown away" in caplog.text
    assert (place / "model.safetensors").read_bytes() == before and not checkpoints.exists()


@pytest.mark.slow
def test_changes_recompute_what_they_touch(tmp_path: Path) -> None:
    go(tmp_path)
    other = go(tmp_path, distillation__temperature=4.0)
    assert {s.name for s in other.stages if s.reused} == {"members", "predictions", "baseline"}
    assert len(stores(tmp_path)) == 2
    (tmp_path / "models.py").write_text((tmp_path / "models.py").read_text().replace("nn.ReLU", "nn.Tanh"))
    changed = run(RunConfig.load(str(tmp_path / "config.yaml")))
    assert not any(s.reused for s in changed.stages if s.name in ("members", "baseline"))


@pytest.mark.slow
def test_another_recipe_keeps_the_earlier_weights(tmp_path: Path) -> None:
    """Members of the first recipe stay, the run names what changed, and the first recipe finds them again."""
    first = go(tmp_path)
    shown = tmp_path / "runs/small/members/0/model.safetensors"
    before = shown.read_bytes()
    go(tmp_path, ensemble__training={"epochs": 1, "batch_size": 64, "learning_rate": 5.0e-3})
    assert shown.read_bytes() != before
    assert before in [path.read_bytes() for path in (tmp_path / "runs/small/trained").glob("*/model.safetensors")]
    notes = [json.loads(line).get("text", "") for line in (tmp_path / "runs/small/events.jsonl").open()]
    assert any("members are trained again (3 of 3): training.epochs: 2 -> 1" in note for note in notes)
    assert not any("baseline" in note for note in notes), "what changed is no input of the baseline"
    again = go(tmp_path)
    assert {s.name for s in again.stages if s.reused} == {"members", "baseline", "soft targets", "student"}
    assert shown.read_bytes() == before and again.gain_transferred == first.gain_transferred


@pytest.mark.slow
def test_the_number_of_actors_changes_no_bit(tmp_path: Path) -> None:
    parts = []
    for actors in (1, 2, 3):
        folder = tmp_path / str(actors)
        go(folder, ensemble__num_actors=actors)
        (store,) = stores(folder)
        parts.append((store.name, [p.read_bytes() for p in sorted(store.glob("*.parquet"))]))
    assert parts[0] == parts[1] == parts[2]


@pytest.mark.slow
def test_the_number_of_student_workers_changes_no_result(tmp_path: Path) -> None:
    go(tmp_path / "one")
    go(tmp_path / "two", student__num_workers=2)
    torch.testing.assert_close(
        student(tmp_path / "one/runs/small"), student(tmp_path / "two/runs/small"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_loaded_members_distil_as_trained_ones(tmp_path: Path) -> None:
    go(tmp_path)
    files = [str(tmp_path / f"runs/small/members/{k}/model.safetensors") for k in range(3)]
    changes = {"ensemble__training": None, "ensemble__size": None, "ensemble__checkpoints": files}
    loaded = go(tmp_path, name="loaded", storage=str(tmp_path / "apart"), **changes)  # else all of it is reused
    assert torch.equal(student(tmp_path / "runs/small"), student(tmp_path / "apart/loaded"))
    assert len([s for s in loaded.systems if s.role == "member"]) == 3


@pytest.mark.slow
def test_fitted_weights_and_the_geometric_mean(tmp_path: Path) -> None:
    found = go(tmp_path, ensemble__weights="validation", ensemble__combine="geometric")
    (store,) = stores(tmp_path)
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["combine"] == found.soft_targets.combine == "geometric"
    assert sum(manifest["weights"]) == pytest.approx(1.0) and len(set(manifest["weights"])) > 1
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs/small/predictions").glob("member-*")}
    assert {p.stem for p in kept} >= {"member-0-test", "member-0-validation"}
    go(tmp_path, ensemble__weights="validation", ensemble__combine="geometric")
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # the weights need no predictions of their own


def test_alone_on_a_machine_ray_is_started_on_loopback_and_taken_down(tmp_path: Path) -> None:
    """The command as a person runs it: its own Ray, two elastic workers, plain lines, nothing left running."""
    path = write_config(tmp_path, student__num_workers=[1, 2], ensemble__size=2)
    (tmp_path / "watch.py").write_text(
        "import ray\n"
        "def address(probabilities, labels):\n"
        "    if not ray.is_initialized():\n"
        "        return {'on_loopback': 1.0}  # tried before Ray is there\n"
        "    nodes = {node['NodeManagerAddress'] for node in ray.nodes()}\n"
        "    return {'on_loopback': float(nodes == {'127.0.0.1'})}\n"
    )
    metrics = 'evaluation.metrics=[{factory: "watch:address"}]'
    mark = commands.new_mark()
    with commands.running(*commands.STILLHOUSE, "run", path, "--set", metrics, mark=mark) as process:
        out, err = process.communicate(timeout=commands.RUN_S)
        left = commands.processes(mark)
    assert process.returncode == 0, err
    assert "members ..." in err and "mean of 2 members" in out
    assert not [line for line in err.splitlines() if "Ray" in line and not line.startswith("  start-up: ")]
    found = json.loads((tmp_path / "runs/small/report.json").read_text())
    assert all(system["test"]["on_loopback"] == 1.0 for system in found["systems"])
    assert not left


@pytest.mark.slow
def test_fresh_starts_over(copied: Path) -> None:
    weights = copied / "runs/small/members/0/model.safetensors"
    before, own = weights.stat().st_mtime_ns, ("notes.md", "members/0/notes.md", "soft_targets/notes.md", "a.partial")
    for name in own:
        (copied / "runs/small" / name).write_text("the user's")
    assert main(["run", str(copied / "config.yaml"), "--fresh"]) == 0
    assert weights.stat().st_mtime_ns > before
    assert all((copied / "runs/small" / name).read_text() == "the user's" for name in own)


@pytest.mark.slow
def test_loaded_members_are_known_by_their_code_too(tmp_path: Path) -> None:
    go(tmp_path)
    files = [str(tmp_path / f"runs/small/members/{k}/model.safetensors") for k in range(3)]
    settings = {"name": "loaded", "ensemble__training": None, "ensemble__size": None, "ensemble__checkpoints": files}
    go(tmp_path, **settings)
    path = write_config(tmp_path, **settings)
    (tmp_path / "models.py").write_text((tmp_path / "models.py").read_text().replace("nn.ReLU", "nn.Tanh"))
    changed = run(RunConfig.load(str(path)))
    assert not any(stage.reused for stage in changed.stages if stage.name in ("soft targets", "student"))


@pytest.mark.slow
def test_a_broken_model_ends_the_run_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, student__model__factory="broken:net", student__model__kwargs={})
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    steps = 0\n"
        "    def forward(self, x):\n"
        "        self.steps += self.training\n"
        "        if self.steps > 5: raise ValueError('tubes are clogged')\n"  # later than what is tried beforehand
        "        return super().forward(x)\n"
        "def net(): return Net(8, 3)\n"
    )
    assert main(["run", str(path)]) == 1
    said = capsys.readouterr().err
    assert re.search(r"training the baseline .*failed again in a fresh process: ValueError: tubes are clogged", said)
    assert "Traceback" not in said
    assert "resumes" in said
