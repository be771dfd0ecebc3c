"""Configurations: what is right loads, and what is wrong is named with its key and the fix."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.run_config import RunConfig
from orchestrator.config.student import StudentSpec, StudentStage
from orchestrator.stages import preflight
from tests.makers import settings, write_config
from workers.errors import RequestError
from workers.specs.models import ModelSpec
from workers.specs.training import TrainingSpec

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"student__trainin": 1}, r"student\.trainin: unknown key; did you mean 'training'\?"),
    "the beginning of a key": (
        {"distillation__temp": 4},
        r"distillation\.temp: unknown key; did you mean 'temperature'\?",
    ),
    "unknown top key": ({"distilation": {}}, "distilation: unknown key; did you mean 'distillation'"),
    "unknown deep key": ({"ensemble__training__lr": 1}, r"ensemble\.training\.lr: unknown key; known here: epochs"),
    "missing": ({"data": None}, "data: missing"),
    "wrong type": ({"student__training__epochs": "many"}, r"student\.training\.epochs: found 'many'; expected"),
    "temperature": (
        {"distillation__temperature": 0},
        r"distillation\.temperature: found 0; expected greater than or equal to 0.001",
    ),
    "temperature below": ({"distillation__temperature": -2.0}, r"found -2\.0; expected greater than or equal to 0.001"),
    "temperature infinite": ({"distillation__temperature": float("inf")}, "finite"),
    "weights": ({"distillation__soft_weight": 0, "distillation__hard_weight": 0}, "distillation: .*both 0"),
    "size": ({"ensemble__size": 0}, r"ensemble\.size: found 0; expected greater than or equal to 1 or 'auto'"),
    "seeds": ({"seed": 2**63 - 1, "seeds": 2}, r"`seeds` 2; expected seeds below 2\^63"),
    "size word": ({"ensemble__size": "all"}, r"ensemble\.size: found 'all'"),
    "name": ({"name": "../up"}, "name: found '../up'"),
    "learning rate": ({"student__training__learning_rate": 0}, "greater than 0"),
    "validation twice": ({"data__validation_share": 0.1}, "`validation` or `validation_share`, not both"),
    "no test": ({"data__test": None}, "kind 'npz' needs `test`"),
    "no factory": ({"data": {"kind": "python"}}, "kind 'python' needs `factory"),
    "data kind": ({"data__kind": "csv"}, "data.kind: found 'csv'"),
    "factory name": ({"student__model__factory": "models"}, r"student\.model\.factory: found 'models'"),
    "two sources": ({"ensemble__checkpoints": ["a"]}, "`training` .* or `checkpoints`"),
    "no source": ({"ensemble__training": None}, "`training` .* or `checkpoints`"),
    "member weights": ({"ensemble__weights": [1, 2]}, "`weights` has 2 numbers for 3 members"),
    "member weights 0": ({"ensemble__weights": [0, 0, 0]}, "all 0"),
    "workers": ({"student__num_workers": [3, 1]}, "min <= max"),
    "stages": ({"student__stages": []}, r"student: `stages` has \[\]; expected at least one"),
    "stages of one name": (
        {"student__stages": [{"name": "a"}, {"name": "a"}]},
        r"`stages` has \['a', 'a'\]; .* a name of its own",
    ),
    "a stage's name": (
        {"student__stages": [{"name": "../a"}]},
        r"student\.stages\.0\.name: found '../a'; expected lower",
    ),
    "a stage's objective": (
        {"student__stages": [{"name": "a", "objective": [{"term": "soft"}], "soft_weight": 1.0}]},
        r"student\.stages\.0 \('a'\): `objective` and `soft_weight` are both given",
    ),
    "a stage that learns nothing": (
        {"student__stages": [{"name": "a", "soft_weight": 0, "hard_weight": 0}]},
        r"stages\.0 \('a'\): .*both 0",
    ),
    "a stage's training": (
        {"student__stages": [{"name": "a", "training": {}}]},
        r"`stages\.0\.training` has no `epochs`",
    ),
    "a stage's workers": (
        {
            "student__num_workers": 4,
            "student__stages": [{"name": "a", "training": {"epochs": 1, "batch_size": 2, "learning_rate": 0.1}}],
        },
        "a batch has 2 examples; expected at least one for each worker",
    ),
    "nothing before": ({"student__initial": "previous"}, "`initial` is previous, and nothing is before it"),
    "combine": ({"ensemble__combine": "median"}, r"ensemble\.combine: found 'median'; expected 'arithmetic' or"),
    "several files": (
        {"data__train": ["a.npz", "b.npz"]},
        r"data\.train: found \['a\.npz', 'b\.npz'\]; expected a valid string or keys with values$",
    ),
    "a learning-rate schedule": (
        {"student__training__schedule": "liner"},
        r"(?m)^student\.training\.schedule: found 'liner'; expected 'constant', 'cosine' or 'linear' or one of your "
        r"own as `module:Class`; did you mean 'linear'\?$",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_named(tmp_path: Path, case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(RequestError, match=message):
        RunConfig.load(str(write_config(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [", "line 1, column 8: not YAML"),
        ("- a\n- b", "found a list; expected keys"),
        ("", "found nothing"),
        ("name: \x00", "not YAML"),
        ("name: a\n---\nname: b\n", "line 2, column 1: not YAML .*expected a single document in the stream, but found"),
        ("data: &d {kind: npz, kwargs: {}, inner: *d}", "refers to itself"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(RequestError, match=message):
        RunConfig.load(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.yaml': no such file"):
        RunConfig.load(str(tmp_path / "nowhere.yaml"))


def test_overrides_reach_any_depth(tmp_path: Path) -> None:
    config = RunConfig.load(
        str(write_config(tmp_path)),
        ["seed=5", "ensemble.training.learning_rate=1e-2", "student.model.kwargs.hidden=9", "report.accuracy=hits"],
    )
    assert (config.seed, config.student.model.kwargs["hidden"], config.report.accuracy) == (5, 9, "hits")
    assert config.ensemble.training is not None and config.ensemble.training.learning_rate == 0.01


def test_a_section_without_keys_is_left_out(tmp_path: Path) -> None:
    path = write_config(tmp_path, distillation=None, tracking=None, student__model__kwargs=None)
    expected = RunConfig.load(str(path))
    values = yaml.safe_load(path.read_text())
    values |= {"distillation": None, "tracking": None, "report": None}
    values["student"]["model"]["kwargs"] = values["ensemble"]["resources_per_member"] = None
    path.write_text(yaml.safe_dump(values))
    resources = expected.ensemble.resources_per_member
    found = RunConfig.load(str(path), [f"ensemble.resources_per_member.num_cpus={resources.num_cpus}"])
    assert found == expected
    assert RunConfig.load(str(path), ["distillation.temperature=3"]).distillation.temperature == 3
    with pytest.raises(RequestError, match="name: found nothing; expected a valid string"):
        RunConfig.load(str(path), ["name="])


def test_overrides_reach_into_lists(tmp_path: Path) -> None:
    """By the keys that messages name, such as `ensemble.members.0.sample`."""
    terms = [{"term": "soft", "weight": 0.5}, {"term": "hard", "weight": 0.5}]
    path = str(write_config(tmp_path, distillation={"objective": terms}))
    found = RunConfig.load(path, ["distillation.objective.1.weight=0.2", "distillation.objective.0={term: logits_mse}"])
    assert [(each.term, each.weight) for each in found.distillation.every_term] == [("logits_mse", 1.0), ("hard", 0.2)]
    for place in ("2", "-1", "soft"):
        expected = rf"objective' is a list, and '{place}' names none of it; expected the number of one of its 2 entries"
        with pytest.raises(RequestError, match=expected):
            RunConfig.load(path, [f"distillation.objective.{place}.weight=1"])
        with pytest.raises(RequestError, match=expected):
            RunConfig.load(path, [f"distillation.objective.{place}=1"])


def test_an_override_leaves_other_places_of_an_alias_alone(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["student"]["training"] = values["ensemble"]["training"]
    values["student"]["model"] = values["ensemble"]["model"]
    path.write_text(yaml.dump(values))
    assert "*id001" in path.read_text()
    before = RunConfig.load(str(path))
    config = RunConfig.load(str(path), ["student.training.epochs=77", "student.model.kwargs.hidden=9"])
    assert isinstance(config.student.training, TrainingSpec) and config.student.training.epochs == 77
    assert config.student.model.kwargs["hidden"] == 9
    assert config.ensemble == before.ensemble


@pytest.mark.parametrize("override", ["seed", "=3", ".a=1", "seed.x=1", "a..b=2", "seed=[1"])
def test_wrong_overrides_are_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(RequestError):
        RunConfig.load(str(write_config(tmp_path)), [override])


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_config(tmp_path / "place", storage="runs", tracking__uri="sqlite:///ml.db")
    config = RunConfig.load(str(path))
    assert config.storage == f"{tmp_path}/runs" and config.folder == f"{tmp_path}/runs/small"
    assert config.tracking.uri == f"sqlite:///{tmp_path}/ml.db"
    assert config.data.root == config.student.model.folder == f"{tmp_path}/place"


def test_runs_of_one_file_share_an_experiment(tmp_path: Path) -> None:
    path = str(write_config(tmp_path, name="digits", tracking__experiment=None))
    for overrides, experiment in (
        ([], "digits"),
        (["name=digits-t4", "distillation.temperature=4"], "digits"),
        (["name=other", "tracking.experiment=mine"], "mine"),
        (["name=other", 'tracking.experiment=""'], "digits"),
        (["tracking={}", "name=other"], "digits"),
    ):
        assert RunConfig.load(path, overrides).tracking.experiment == experiment
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(RunConfig.load(path, ["name=digits-t4"]).to_redacted_yaml())
    assert RunConfig.load(str(resolved), ["name=again"]).tracking.experiment == "digits"


def test_a_name_from_an_override_alone_is_the_experiment(tmp_path: Path) -> None:
    path = str(write_config(tmp_path, name=None, tracking__experiment=None))
    assert RunConfig.load(path, ["name=mine"]).tracking.experiment == "mine"
    assert RunConfig.from_mapping(settings(tmp_path, tracking=None), str(tmp_path)).tracking.experiment == "small"


def test_a_resolved_configuration_loads_as_itself(tmp_path: Path) -> None:
    config = RunConfig.load(str(write_config(tmp_path / "a")))
    again = tmp_path / "elsewhere" / "config.yaml"
    again.parent.mkdir()
    again.write_text(config.to_redacted_yaml())
    assert RunConfig.load(str(again)) == config


def test_a_configuration_without_its_secrets_loads(tmp_path: Path) -> None:
    secret = {"hidden": 8, "password": "12 34", "source": "http://me:pw@host/x"}
    config = RunConfig.load(str(write_config(tmp_path, student__model__kwargs=secret)))
    found = RunConfig.from_mapping(yaml.safe_load(config.to_redacted_yaml()), str(tmp_path)).student.model
    assert getattr(found, "kwargs", None) == {"hidden": 8, "password": "***", "source": "http://***@host/x"}


def test_every_example_loads() -> None:
    examples = sorted(Path(__file__).parents[2].glob("examples/*/config.yaml"))
    assert examples
    for path in examples:
        assert RunConfig.load(str(path)).name == path.parent.name


def test_values_are_not_changed_by_loading(tmp_path: Path) -> None:
    values = settings(tmp_path)
    before = yaml.safe_dump(values)
    RunConfig.from_mapping(values, str(tmp_path))
    assert yaml.safe_dump(values) == before


def test_a_factory_has_the_folder_that_is_asked_for_or_where_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("run", "lib", "here"):
        (tmp_path / place).mkdir()
    (tmp_path / "here/only_here.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    model = {"kind": "python", "factory": "only_here:make"}
    changes = {"ensemble__model": model, "student__model": {**model, "folder": "../lib"}}
    config = RunConfig.load(str(write_config(tmp_path / "run", **changes)))
    assert config.ensemble.model.folder == str(tmp_path / "here")
    assert config.student.model.folder == str(tmp_path / "lib")
    (tmp_path / "run/only_here.py").touch()
    again = RunConfig.load(str(tmp_path / "run/config.yaml"))
    assert again.ensemble.model.folder == str(tmp_path / "run")


def test_files_that_are_depended_on_go_with_every_factory(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data__depends_on": ["vocab.txt", "s3://bucket/a"],
        "data__augment": {"factory": "models:mlp"},
        "student__model__depends_on": ["own.bin"],
    }
    config = RunConfig.load(str(write_config(tmp_path, **changes)))
    shared = (str(tmp_path / "vocab.txt"), "s3://bucket/a")
    assert config.data.augment is not None
    assert config.data.depends_on == config.ensemble.model.depends_on == config.data.augment.depends_on == shared
    assert config.student.model.depends_on == (str(tmp_path / "own.bin"), *shared)
    assert RunConfig.from_mapping(yaml.safe_load(config.to_redacted_yaml()), "/elsewhere") == config
    for wrong in ("vocab.txt", [1]):
        with pytest.raises(RequestError, match=r"data\.depends_on"):
            RunConfig.load(str(write_config(tmp_path, data__depends_on=wrong)))


def test_the_stages_of_a_student(tmp_path: Path) -> None:
    """Each stage has its own terms or the run's, its own recipe or the student's, and begins where it is told to."""
    stages = [
        {"name": "first", "objective": [{"term": "logits_mse"}]},
        {"name": "second", "soft_weight": 0.9, "training": {"epochs": 9, "batch_size": 8, "learning_rate": 0.1}},
        {"name": "third", "initial": "other.safetensors"},
    ]
    config = RunConfig.load(str(write_config(tmp_path, student__stages=stages, student__initial="begun.safetensors")))
    first, second, third = config.training_stages
    assert [term.term for term in first.loss.every_term] == ["logits_mse"]
    assert first.initial == str(tmp_path / "begun.safetensors") and first.training == config.student.recipe
    assert (second.loss.soft_weight, second.loss.hard_weight) == (0.9, 0.3) and second.initial == "previous"
    assert second.training.epochs == 9 and third.loss == config.distillation
    assert third.initial == str(tmp_path / "other.safetensors")
    assert {stage.loss.temperature for stage in config.training_stages} == {2.0}
    (only,) = RunConfig.load(str(write_config(tmp_path))).training_stages
    assert (only.name, only.loss, only.initial) == ("", config.distillation, None)
    again = tmp_path / "resolved.yaml"
    again.write_text(config.to_redacted_yaml())
    assert RunConfig.load(str(again)).training_stages == config.training_stages


def test_a_student_whose_stages_all_have_a_recipe_needs_none(tmp_path: Path) -> None:
    recipe = {"epochs": 9, "batch_size": 8, "learning_rate": 0.1}
    stages = [{"name": "td-1", "training": {**recipe, "epochs": 3}}, {"name": "td-2", "training": recipe}]
    config = RunConfig.load(str(write_config(tmp_path, student__stages=stages, student__training=None)))
    assert [each.training.epochs for each in config.training_stages] == [3, 9] and config.student.recipe.epochs == 9
    assert RunConfig.from_mapping(yaml.safe_load(config.to_redacted_yaml()), "/elsewhere") == config
    del stages[0]["training"]
    with pytest.raises(
        RequestError, match=r"student: `training` is missing; expected it, or a `training` in each of `s"
    ):
        RunConfig.load(str(write_config(tmp_path, student__stages=stages, student__training=None)))
    stages = [{"name": "td-1", "training": recipe}, {"name": "td-2", "training": {**recipe, "lr": 1}}]
    with pytest.raises(RequestError) as refused:
        RunConfig.load(str(write_config(tmp_path, student__stages=stages, student__training=None)))
    (line,) = str(refused.value).splitlines()
    assert line.startswith("student.stages.1.training.lr: unknown key")
    stage = StudentStage(name="td", training=TrainingSpec.model_validate(recipe))
    assert StudentSpec(model=ModelSpec(factory="models:mlp"), stages=(stage,)).baseline_recipe == stage.training


def test_a_learning_rate_schedule_of_ones_own_is_beside_the_configuration(tmp_path: Path) -> None:
    changes = {"student__training__schedule": "models:Saw", "student__training__kwargs": {"teeth": 3}}
    config = RunConfig.load(str(write_config(tmp_path, data__depends_on=["vocab.txt"], **changes)))
    training = config.student.training
    assert isinstance(training, TrainingSpec) and training.kwargs == {"teeth": 3}
    assert (training.folder, training.depends_on) == (str(tmp_path), (str(tmp_path / "vocab.txt"),))
    assert RunConfig.from_mapping(yaml.safe_load(config.to_redacted_yaml()), "/elsewhere") == config
    with pytest.raises(RequestError, match=r"'models:Saw': module 'models' .* has no function or class 'Saw'"):
        preflight.check_code(config, set())
