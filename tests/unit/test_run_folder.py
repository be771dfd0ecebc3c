"""What a run may overwrite and remove in its folder: what runs write, where the folder carries their mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run_config import RunConfig
from orchestrator.observers.jsonl import EventLog
from orchestrator.reporting import files as reports
from orchestrator.run_folder import owned, paths, resolved
from orchestrator.run_folder.lock import Lock
from tests.makers import write_config
from workers.errors import RequestError
from workers.inference import saved_weights
from workers.models import checkpoints
from workers.specs import models
from workers.targets import soft_targets
from workers.training import ray_worker

WRITTEN = (
    "config.yaml",
    "report.json",
    "report.md",
    "report.html",
    "events.jsonl",
    "members/0/model.safetensors",
    "members/11/training.json",
    "trained/0123456789abcdef/model.safetensors",
    "trained/0123456789abcdef/state.pt",
    "baseline/history.json",
    "student/checkpoints-0123456789abcdef/checkpoint_1/state.pt",
    "student/failure.json",
    "predictions/member-0-test.pt",
    "predictions/member-0-test.safetensors",
    "predictions/member-0-test-0123456789abcdef.safetensors",
    "predictions/student-validation.json",
    "logits/0123456789abcdef/logits.json",
    "artifacts.json",
    "soft_targets/0123456789abcdef/part-000001-0123456789abcdef.parquet",
    "soft_targets/0123456789abcdef/manifest.json",
)
FOREIGN = (
    "train.npz", "notes.md", "members/notes.md", "members/0/old.safetensors", "members/best/model.safetensors",
    "student/export.onnx", "soft_targets/mine.parquet", "trained/notes/model.safetensors", "models.py", "x.partial",
    "config.yaml.bak", "backup/config.yaml", "predictions/submission.pt", "student/mlflow/notes.ipynb", "page.html",
    "student/checkpoints-abc/best.pt", "trained/cafe/model.safetensors", "members/0/failure-analysis.json",
)  # fmt: skip


STUDENT = {"model": {"factory": "models:mlp"}, "training": {"epochs": 1}}

WORKERS_WRITE = (checkpoints.STATE, saved_weights.ANSWERS, ray_worker.HISTORY)
"""Beside a network's weights."""
PARTIAL = f".{'ab' * 16}.partial"
"""Ends the name of a file that a killed run was writing."""


def load(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig.load(str(write_config(folder, **changes)))


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_what_runs_wrote_is_removed_and_nothing_else(tmp_path: Path) -> None:
    config = load(tmp_path)
    folder = Path(config.folder)
    elsewhere = tmp_path / "elsewhere"
    fill(folder, *WRITTEN, *FOREIGN)
    fill(elsewhere, "0/model.safetensors")
    (folder / "predictions" / "link").symlink_to(elsewhere)
    owned.mark(config.folder)
    owned.check(config, fresh=True)
    owned.clear(config.folder)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {*FOREIGN, owned.MARK}
    assert (elsewhere / "0/model.safetensors").exists()
    assert not (folder / "baseline").exists(), "a folder that becomes empty goes too"


def test_networks_that_the_current_run_does_not_have_keep_their_weights_without_a_record(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    stays = ["members/0/training.json", "members/2/notes.md", "members/3/model.safetensors", "stages/b/training.json"]
    stays += ["members/3/config.json", "members/best/training.json", "stages/a/model.safetensors", WRITTEN[7]]
    fill(folder, *stays, "members/1/training.json", "members/1/state.pt", "members/3/training.json")
    fill(folder, "members/3/history.json", "stages/a/training.json", "stages/c/training.json")
    owned.remove_shown(str(folder), "member", ["0"])
    owned.remove_shown(str(folder), "stage", ["b"])
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*stays}
    assert not (folder / "members/1").exists() and not (folder / "stages/c").exists()
    owned.remove_shown(str(folder), "stage", [])
    assert not (folder / "stages/b").exists() and (folder / "stages/a").exists()


def test_every_path_that_is_made_is_one_that_may_be_removed() -> None:
    digest, folder = "0123456789abcdef", paths.RunFolder("")
    files = [
        folder.mark,
        folder.lock,
        folder.config,
        folder.events,
        folder.report,
        folder.tracking,
    ]
    files += [form.file for form in reports.FORMS.values()]
    files += [paths.network(digest), paths.soft_targets(digest), paths.logits(digest)]
    files += [
        paths.predictions(system, "test") for system in ("member-7", "ensemble", "baseline", "student", "int8.v2")
    ]
    folders = [folder.network(digest), folder.shown("member-12"), folder.shown("baseline"), folder.shown("student")]
    folders += [folder.shown("stage-td-1")]
    files += [f"{place}/{name}" for place in folders for name in (*models.WEIGHTS, paths.NETWORK, *WORKERS_WRITE)]
    files += [f"{folder.checkpoints('student', digest)}/checkpoint_1/state.pt"]
    files += [f"{folder.soft_targets(digest)}/{soft_targets.ABANDONED}"]
    for file in files:
        assert paths.is_written(file.lstrip("/")), file
    assert not any(paths.is_written(name) for name in FOREIGN)


@pytest.mark.parametrize("name", FOREIGN[:3])
def test_fresh_is_refused_where_no_run_made_the_folder(name: str, tmp_path: Path) -> None:
    config = load(tmp_path)
    fill(Path(config.folder), name, "config.yaml")
    with pytest.raises(RequestError, match=r"has no stillhouse.json.*Nothing was removed"):
        owned.check(config, fresh=True)


def test_a_folder_with_files_that_a_run_would_overwrite_is_refused(tmp_path: Path) -> None:
    config = load(tmp_path)
    fill(Path(config.folder), "train.npz")
    owned.check(config, fresh=False)
    fill(Path(config.folder), "members/0/old.pt")
    with pytest.raises(RequestError, match=r"would overwrite its 'members'"):
        owned.check(config, fresh=False)


def test_a_configuration_in_the_place_of_its_own_run_is_not_overwritten(tmp_path: Path) -> None:
    config = load(tmp_path / "small", storage=str(tmp_path))
    with pytest.raises(RequestError, match=r"would overwrite its 'config.yaml'"):
        owned.check(config, fresh=False)


def test_the_folder_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    config = load(tmp_path)
    EventLog(config.folder).write("run", mlflow_run="abc")
    fill(Path(config.folder), "config.yaml", "members/0/model.safetensors")
    owned.check(config, fresh=False)


@pytest.mark.parametrize(
    "key, values",
    [
        ("data__train", "runs/small/train.npz"),
        ("data__unlabeled", "runs/small/members/more.npz"),
        ("student__model__kwargs", {"tables": ["runs/small/student/model.safetensors"]}),
        ("ensemble__checkpoints", ["runs/small/members/0/model.safetensors"]),
        ("student__initial", "runs/small/student/model.safetensors"),
        ("student__model__depends_on", ["runs/small/student/model.safetensors"]),
        (
            "distillation__objective",
            [{"term": "models:mlp", "depends_on": ["runs/small/student/model.safetensors"]}],
        ),
        (
            "distillation__temperature",
            {"from": 1, "to": 2, "schedule": "models:mlp", "depends_on": ["runs/small/student/model.safetensors"]},
        ),
        (
            "ensemble__weights",
            {"factory": "models:mlp", "kwargs": {"file": "runs/small/student/model.safetensors"}},
        ),
        (
            "report__figures",
            [{"factory": "models:mlp", "kwargs": {"file": "runs/small/student/model.safetensors"}}],
        ),
        (
            "evaluation__systems",
            {"x": {"model": {"factory": "models:mlp"}, "checkpoint": "runs/small/student/model.safetensors"}},
        ),
        ("student__stages", [{"name": "a"}, {"name": "b", "initial": "runs/small/stages/a/model.safetensors"}]),
        ("students", {"one": STUDENT, "two": {**STUDENT, "initial": "runs/small/student/model.safetensors"}}),
        (
            "students",
            {
                "one": STUDENT,
                "two": {**STUDENT, "stages": [{"name": "a", "data": {"unlabeled": "runs/small/more.npz"}}]},
            },
        ),
    ],
)
def test_fresh_is_refused_where_inputs_lie_in_the_folder(key: str, values: Any, tmp_path: Path) -> None:
    changes: dict[str, Any] = {key: values}
    if key == "distillation__objective":
        changes = {"distillation__soft_weight": None, "distillation__hard_weight": None, **changes}
    if key == "ensemble__checkpoints":
        changes |= {"ensemble__training": None, "ensemble__size": None}
    if key == "students":
        changes |= {"student": None}
    config = load(tmp_path, **changes)
    fill(tmp_path, "runs/small/student/model.safetensors")
    owned.mark(config.folder)
    owned.check(config, fresh=False)
    with pytest.raises(RequestError, match=r"is an input of this configuration.*Nothing was removed"):
        owned.check(config, fresh=True)


def test_fresh_is_refused_where_the_code_lies_in_the_folder(tmp_path: Path) -> None:
    config = load(tmp_path, name=tmp_path.name, storage=str(tmp_path.parent))
    (tmp_path / owned.MARK).write_text('{"format": 1}')
    with pytest.raises(RequestError, match=r"is an input of this configuration"):
        owned.check(config, fresh=True)


def test_the_folder_of_a_later_version_is_refused(tmp_path: Path) -> None:
    config = load(tmp_path)
    fill(Path(config.folder), "notes.md")
    (Path(config.folder) / owned.MARK).write_text('{"format": 99}')
    for fresh in (False, True):
        with pytest.raises(RequestError, match="has format 99"):
            owned.check(config, fresh=fresh)


def test_half_written_files_of_every_kind_are_swept_and_nothing_else(tmp_path: Path) -> None:
    config = load(tmp_path)
    folder = Path(config.folder)
    half = [name + PARTIAL for name in (*WRITTEN, "stillhouse.json", "tracking.json", "run.lock")]
    fill(folder, *WRITTEN, *FOREIGN, *half)
    with Lock(config.folder):
        pass
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {*WRITTEN, *FOREIGN}


def test_a_key_that_an_earlier_version_ignored_does_not_keep_a_run_from_being_read(tmp_path: Path) -> None:
    path = write_config(tmp_path, data__image_size=[8, 8])
    with pytest.raises(RequestError, match="`image_size` belongs to kind 'images'"):
        RunConfig.load(str(path))
    assert resolved.config_of(str(tmp_path)).data.image_size is None
    assert "image_size" not in resolved.keys_of(str(tmp_path))["data"]
    with pytest.raises(RequestError, match="`image_size` belongs to kind 'images'"):
        resolved.config_of(str(tmp_path), ["data.image_size=[8, 8]"])
