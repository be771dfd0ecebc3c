"""What MLflow is told of a configuration: what was asked for, and no secret."""

from __future__ import annotations

from pathlib import Path

from orchestrator import review
from orchestrator.config import RunConfig
from tests.makers import settings


def config(place: Path, **kwargs: object) -> RunConfig:
    return RunConfig.from_mapping(settings(place, student__model__kwargs=kwargs), str(place))


def test_a_secret_is_known_by_its_key(tmp_path: Path) -> None:
    asked = config(tmp_path, password="hunter2 22222", hidden=6)
    told = review.params(asked) | review.params_of("student", asked)
    assert told["student.model.kwargs.password"] == told["model.kwargs.password"] == "***"
    assert not any("hunter" in value for value in told.values())
    assert review.has_secrets(asked.student.model.kwargs)
    assert review.has_secrets({"password": "***"}) and not review.has_secrets({"hidden": 6, "name": "resnet"})


def test_kwargs_are_told_whatever_they_are_called(tmp_path: Path) -> None:
    told = review.params(config(tmp_path, name="resnet", folder="weights", storage=3))
    assert {told[f"student.model.kwargs.{key}"] for key in ("name", "folder", "storage")} == {"resnet", "weights", "3"}
    assert not {"name", "storage", "data.root", "student.model.folder", "tracking.uri"} & told.keys()


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    assert len(review.params(config(tmp_path, words="a" * 2000))["student.model.kwargs.words"]) == review.MOST
