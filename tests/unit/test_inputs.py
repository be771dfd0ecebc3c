"""The files that a configuration names, with their keys."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config import inputs
from orchestrator.config.run_config import RunConfig
from tests.makers import write_config


def test_files_of_every_student_are_named_by_their_keys(tmp_path: Path) -> None:
    mlp = {"factory": "models:mlp"}
    plain = {"model": mlp, "training": {"epochs": 1}}
    stages = [
        {"name": "a", "data": {"unlabeled": "general.npz"}, "initial": "a.pt"},
        {"name": "b", "initial": "previous"},
    ]
    several = {"one": {**plain, "initial": "teacher_layers"}, "two": {**plain, "initial": "two.pt", "stages": stages}}
    members = [
        {"model": mlp, "checkpoints": ["0.pt", "1.pt"]},
        {"model": {"kind": "onnx", "path": "c.onnx", "tokenizer": "tokens"}},
        {"model": mlp, "training": {"epochs": 1}, "initial": "begun.pt"},
    ]
    systems = {"old": {"model": mlp, "checkpoint": "s3://b/old.pt"}}
    path = write_config(
        tmp_path, student=None, students=several, ensemble={"members": members}, evaluation__systems=systems
    )
    config = RunConfig.load(str(path))
    expected = {
        "ensemble.members.0.checkpoints.0": "0.pt",
        "ensemble.members.0.checkpoints.1": "1.pt",
        "ensemble.members.1.model.path": "c.onnx",
        "ensemble.members.1.model.tokenizer": "tokens",
        "ensemble.members.2.initial": "begun.pt",
        "students.two.initial": "two.pt",
        "students.two.stages.0.initial": "a.pt",
    }
    found = dict(inputs.of_networks(config))
    assert found.pop("evaluation.systems.old.checkpoint") == "s3://b/old.pt"
    assert found == {key: str(tmp_path / name) for key, name in expected.items()}
    splits = {"data.train": "train.npz", "data.validation": "valid.npz", "data.test": "test.npz"}
    splits["students.two.stages.0.data.unlabeled"] = "general.npz"
    assert dict(inputs.of_data(config)) == {key: str(tmp_path / name) for key, name in splits.items()}
    assert {*found.values(), *(uri for _, uri in inputs.of_data(config))} < {*inputs.every(config)}
