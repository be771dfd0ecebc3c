"""What MLflow is told of a configuration: what was asked for, and no secret."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_descriptions
from tests.makers import settings
from workers.redact import has_secrets


def config(place: Path, **kwargs: object) -> RunConfig:
    return RunConfig.from_mapping(settings(place, student__model__kwargs=kwargs), str(place))


def test_a_secret_is_known_by_its_key(tmp_path: Path) -> None:
    asked = config(tmp_path, password="hunter2 22222", hidden=6)
    told = mlflow_descriptions.params(asked) | mlflow_descriptions.params_of("student", asked)
    assert told["student.model.kwargs.password"] == told["model.kwargs.password"] == "***"
    assert not any("hunter" in value for value in told.values())
    assert has_secrets(asked.student.model.kwargs)
    assert has_secrets({"password": "***"}) and not has_secrets({"hidden": 6, "name": "resnet"})


def test_kwargs_are_parameters_whatever_their_names(tmp_path: Path) -> None:
    told = mlflow_descriptions.params(config(tmp_path, name="resnet", folder="weights", storage=3))
    assert {told[f"student.model.kwargs.{key}"] for key in ("name", "folder", "storage")} == {"resnet", "weights", "3"}
    assert not {"name", "storage", "data.root", "student.model.folder", "tracking.uri"} & told.keys()


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    assert (
        len(mlflow_descriptions.params(config(tmp_path, words="a" * 2000))["student.model.kwargs.words"])
        == mlflow_descriptions.MOST
    )


def test_terms_of_the_objective_are_parameters_of_their_own(tmp_path: Path) -> None:
    listed = [{"term": "soft", "weight": {"from": 1.0, "to": 0.0}}, {"term": "own:Term", "kwargs": {"power": 3.0}}]
    asked = RunConfig.from_mapping(settings(tmp_path, distillation={"objective": listed}), str(tmp_path))
    told = mlflow_descriptions.params(asked)
    assert told["distillation.objective.0.weight.from"] == "1.0" and told["distillation.objective.1.term"] == "own:Term"
    assert told["distillation.objective.1.kwargs.power"] == "3.0" and "distillation.objective.1.folder" not in told


def test_names_of_parameters_are_those_that_mlflow_takes(tmp_path: Path) -> None:
    from mlflow.utils.validation import _validate_param

    kwargs: dict[str, object] = {"lr@0": 1, "C++": 2, "a//b": 3, "x" * 300: 4, "é ü": 5}
    told = mlflow_descriptions.params(config(tmp_path, **kwargs))
    for key, value in told.items():
        _validate_param(mlflow_descriptions.param_name(key), value)  # type: ignore[no-untyped-call]
    for key in ("student.model.kwargs.hidden", "distillation.objective.0.weight.from"):
        assert mlflow_descriptions.param_name(key) == key
