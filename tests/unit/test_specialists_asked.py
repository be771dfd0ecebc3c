"""Specialists in a configuration: what is filled in, and what is refused with status 2 before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.command import main
from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_descriptions
from orchestrator.reporting import sections, tables
from orchestrator.reporting.report import SPECIALISTS
from orchestrator.stages import combination, preflight
from orchestrator.stages import specialists as stage
from tests.makers import message, settings, write_config
from tests.reports import plain
from workers.errors import RequestError
from workers.inference.teacher import Member
from workers.models import torch_module
from workers.specs.members import SpecialistRule
from workers.specs.models import special_of

NET = {"factory": "models:mlp"}
TRAINING = {"epochs": 2, "batch_size": 64, "learning_rate": 5.0e-3}
GENERAL = {"model": NET, "training": TRAINING}
SPECIAL = {"model": NET, "training": TRAINING, "initial": 0, "specialists": [[0, 1], [1, 2]]}


def of(*members: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"members": list(members), **more}


def loaded(folder: Path, *members: dict[str, Any], **more: Any) -> RunConfig:
    return RunConfig.from_mapping(settings(folder, ensemble=of(*members, **more)), str(folder))


def without(key: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in {**SPECIAL, **more}.items() if name != key}


SKLEARN = {"kind": "sklearn", "factory": "models:mlp"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no generalist": (of({**SPECIAL, "initial": "begun.safetensors"}), "all members are specialists"),
    "no initial weights": (of(GENERAL, without("initial")), "`initial` is missing, and specialists begin"),
    "in cycles": (of(GENERAL, {**SPECIAL, "initial": "previous"}), "`initial` is previous, and specialists begin"),
    "of a specialist": (of(GENERAL, SPECIAL, {**SPECIAL, "initial": 2}), "member 2 is a specialist"),
    "a mean": (of(GENERAL, SPECIAL, combine="geometric"), "`combine` is geometric"),
    "weights": (of(GENERAL, SPECIAL, weights="entropy"), "`weights` is entropy"),
    "numbers": (of(GENERAL, SPECIAL, weights=[1, 1, 1]), "`weights` is"),
    "no networks": (of(GENERAL, {**SPECIAL, "model": SKLEARN, "training": {}}), "`initial` is given, and an estimator"),
    "estimators": (
        of(GENERAL, without("initial", model=SKLEARN, training={})),
        "`specialists` are networks, and the model 'models:mlp' is of kind 'sklearn'",
    ),
    "files": (of(GENERAL, {**SPECIAL, "model": {"kind": "onnx", "path": "a.onnx"}}), "is only loaded"),
    "loaded": (
        of(GENERAL, without("training", checkpoints=["a.pt", "b.pt"])),
        "`initial` is of members that are train",
    ),
    "a sample": (of(GENERAL, {**SPECIAL, "sample": "bootstrap"}), "leave `sample` out"),
    "auto": (of(GENERAL, {**SPECIAL, "specialists": "auto"}), "`size` is missing; expected the number of groups"),
    "one group": (of(GENERAL, {**SPECIAL, "specialists": "auto", "size": 1}), "`size` is 1; expected the number"),
    "another word": (of(GENERAL, {**SPECIAL, "specialists": "all"}), "specialists"),
    "no class": (of(GENERAL, {**SPECIAL, "specialists": [[0, 1], []]}), "specialists.1"),
    "another size": (of(GENERAL, {**SPECIAL, "size": 3}), "`size` is 3 and `specialists` has the classes of 2"),
    "twice": (
        of(GENERAL, {**SPECIAL, "model": {**NET, "special": {"classes": [0]}}}),
        "`specialists` fills in `model.special`",
    ),
    "unknown": (
        of(GENERAL, {**SPECIAL, "specialists": [[0, 1], [1, 7]]}),
        r"members.1.specialists.1: there is no class 7; expected a number from 0 to 2",
    ),
    "all classes": (
        of(GENERAL, {**SPECIAL, "specialists": [[0, 1], [2, 0, 1]]}),
        r"members.1.specialists.1: these are all 3 classes",
    ),
    "too many groups": (
        of(GENERAL, {**SPECIAL, "specialists": "auto", "size": 2}),
        r"members.1.size: 2 groups of 3 classes; expected at most 1",
    ),
    "another architecture": (
        of(GENERAL, {**SPECIAL, "model": {**NET, "kwargs": {"hidden": 5}}}),
        "another architecture",
    ),
    "loaded, of all": (
        of(GENERAL, {"model": {**NET, "special": {"classes": [0, 1, 2]}}, "checkpoints": ["a.safetensors"]}),
        "model.special.classes: these are all 3 classes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_specialists_are_refused_before_a_run_begins(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ensemble, words = REFUSED[name]
    path = write_config(tmp_path, ensemble=ensemble)
    assert main(["run", str(path)]) == 2
    shown = message(capsys.readouterr().err)
    assert re.search(words, shown.replace("\n", " ")), shown
    assert not (tmp_path / "runs/small").exists()


def test_a_student_is_no_specialist(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"student\.model\.special"):
        loaded_ = settings(tmp_path, student__model={**NET, "special": {"classes": [0]}})
        RunConfig.from_mapping(loaded_, str(tmp_path))


def test_numbers_and_sizes_of_groups(tmp_path: Path) -> None:
    config = loaded(tmp_path, {**GENERAL, "size": 2}, SPECIAL)
    assert config.ensemble.count == 4 and config.ensemble.has_specialists and config.ensemble.needs_each
    assert config.ensemble.begins(4) == {2: 0, 3: 0}
    assert RunConfig.from_mapping(config.model_dump(mode="json", exclude_none=True), str(tmp_path)) == config
    assert not loaded(tmp_path, GENERAL).ensemble.needs_each


def test_the_trial_is_of_a_specialist(tmp_path: Path) -> None:
    config = loaded(tmp_path, GENERAL, SPECIAL)
    dataset = preflight.check(config)
    group = config.ensemble.groups[1]
    special = special_of(stage.tried(group, dataset))
    assert special is not None and special.ids == (0,) and special.of == 3
    assert stage.tried(config.ensemble.groups[0], dataset) == config.ensemble.groups[0].model


def test_a_loaded_specialist_names_its_classes(tmp_path: Path) -> None:
    own = {"classes": [2, 0], "correction": 0.4}
    config = loaded(tmp_path, GENERAL, {"model": {**NET, "special": own}, "checkpoints": ["a.safetensors"]})
    settled = config.for_classes(3, ())
    special = special_of(settled.ensemble.groups[1].model)
    assert special is not None and (special.ids, special.of, special.correction) == ((0, 2), 3, 0.4)
    assert settled.for_classes(3, ()) == settled
    named = config.for_classes(3, ("2", "0", "1"))
    found = special_of(named.ensemble.groups[1].model)
    assert found is not None and found.ids == (0, 1)  # where names are numbers, a number is a name
    wrong = {"model": {**NET, "special": {"classes": ["d"]}}, "checkpoints": ["a.safetensors"]}
    with pytest.raises(RequestError, match=r"model\.special\.classes: there is no class 'd'; expected one of 'a'"):
        loaded(tmp_path, GENERAL, wrong).for_classes(3, ("a", "b", "c"))


def test_the_pool_needs_a_generalist(tmp_path: Path) -> None:
    config = loaded(tmp_path, {**GENERAL, "size": 2}, SPECIAL).for_classes(3, ())
    dataset = preflight.check(config)
    models = [config.ensemble.groups[0].model] * 2 + [stage.tried(config.ensemble.groups[1], dataset)] * 2
    members = [Member(f"member-{k}", model, "") for k, model in enumerate(models)]
    assert combination.rule_of(config.ensemble, members) == SpecialistRule(classes=((), (), (0,), (0,)))
    assert combination.needed(members, [0.25] * 4) == [0.25, 0.25, 0.0, 0.0]
    plain_ = loaded(tmp_path, GENERAL).ensemble
    assert combination.rule_of(plain_, members[:2]) is None and combination.needed(members[:2], [0.5] * 2) == [0.5] * 2
    assert torch_module.build(models[2]).stillhouse_rest.tolist() == [False, True, True]  # type: ignore[union-attr]


def test_the_report_names_the_classes_of_each() -> None:
    report = plain(members=(0.9, 0.4, 0.3))
    assert sections.specialists(report) is None
    systems = [
        system.model_copy(update={"special": {"member-1": ["a", "b"], "member-2": ["c"]}.get(system.name, [])})
        for system in report.systems
    ]
    soft = report.soft_targets.model_copy(update={"rule": SPECIALISTS})
    report = report.model_copy(update={"systems": systems, "soft_targets": soft})
    assert tables.specialists(report)[1:] == [["member-1", "2", "a, b"], ["member-2", "1", "c"]]
    assert tables.comparison(report)[1][0] == "best: member-0"
    found = sections.document(report)
    assert any(section.title == "Specialists" for section in found.sections)
    note = mlflow_descriptions.note_of(report.members[1], report, {}, "1", "2")
    assert note.startswith("A specialist of 2 classes: a, b.")
    assert mlflow_descriptions.note_of(report.system("ensemble"), report, {}, "1", "2").startswith(
        "The joint answer of"
    )
