"""Ensembles of several architectures: groups are numbered through, tried one by one, and each is refused by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import skops.io
import torch
import yaml
from sklearn.linear_model import LogisticRegression

from orchestrator.cluster import resources
from orchestrator.cluster.resources import Machines, Node
from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_descriptions, mlflow_tracker
from orchestrator.stages import preflight
from tests import makers
from tests.unit.test_fits import MODELS as ESTIMATORS
from tests.unit.test_fits import one_thread as one_thread
from tests.unit.test_predictors import OWN, graph
from workers.errors import RequestError
from workers.models import checkpoints, torch_module
from workers.specs.models import ModelSpec, OnnxModel
from workers.specs.training import FitSpec

NET = {"factory": "models:mlp"}
TRAINING = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01}


def loaded(folder: Path, **changes: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    values = makers.settings(folder, **changes)
    (folder / "trees.py").write_text(ESTIMATORS)
    (folder / "own.py").write_text(OWN)
    return RunConfig.from_mapping(values, str(folder))


def of_all_kinds(folder: Path) -> dict[str, Any]:
    """Members of every kind, with their files in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "models.py").write_text(makers.MODELS)
    x, y = makers.blobs(600, 1)
    spec = ModelSpec(factory="models:mlp", folder=str(folder))
    for k in range(2):
        module = torch_module.build(spec, seed=k)
        fit(module, x, y)
        torch.save({f"module.{name}": value for name, value in module.state_dict().items()}, folder / f"{k}.pt")
    graph(folder / "c.onnx", softmax=True)
    if not (folder / "d.skops").exists():  # skops writes the time into the file, which then is another member
        skops.io.dump(LogisticRegression().fit(x, y), folder / "d.skops")
    return {
        "members": [
            {"model": {**NET, "kwargs": {"hidden": 24}}, "size": 2, "training": TRAINING},
            {"model": NET, "checkpoints": ["0.pt", "1.pt"]},
            {"model": {"kind": "sklearn", "path": "d.skops"}},
            {"model": {"kind": "sklearn", "factory": "trees:forest"}, "training": {}},
            {"model": {"kind": "own:Centres"}, "size": 2, "training": {}},
        ],
        "resources_per_member": {"num_cpus": 0.5},
    }


def fit(module: torch.nn.Module, x: Any, y: Any) -> None:
    steps = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(60):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        steps.step()


def test_members_are_numbered_through_all_groups(tmp_path: Path) -> None:
    config = loaded(tmp_path, ensemble=of_all_kinds(tmp_path))
    ensemble = config.ensemble
    assert ensemble.count == 8 and ensemble.firsts() == [0, 2, 4, 5, 6]
    kinds = [group.model.kind for group in ensemble.of_each(8)]
    assert kinds == ["python"] * 4 + ["sklearn"] * 2 + ["own:Centres"] * 2
    assert {k: Path(uri).name for k, uri in ensemble.given().items()} == {2: "0.pt", 3: "1.pt", 4: "d.skops"}
    assert ensemble.groups[3].training == FitSpec() and ensemble.keys()[4] == "ensemble.members.4"
    assert resources.place(ensemble, Machines((Node(2, 0),), False)).size == 8
    assert RunConfig.from_mapping(yaml.safe_load(config.to_redacted_yaml()), str(tmp_path)) == config


def test_the_short_form_is_one_group(tmp_path: Path) -> None:
    ensemble = loaded(tmp_path).ensemble
    (group,) = ensemble.groups
    assert (group.model, group.training, group.count) == (ensemble.model, ensemble.training, 3)
    assert ensemble.count == 3 and ensemble.of_each(3) == [group] * 3 and ensemble.keys() == ["ensemble"]
    auto = loaded(tmp_path, ensemble__size=None).ensemble
    assert auto.count is None and len(auto.of_each(5)) == 5
    one = loaded(tmp_path, ensemble={"model": {"kind": "onnx", "path": "a.onnx"}}).ensemble
    assert one.count == 1 and one.given() == {0: str(tmp_path / "a.onnx")}


def test_each_group_is_tried_and_what_is_taken_otherwise_is_noted(tmp_path: Path) -> None:
    config = loaded(tmp_path, ensemble=of_all_kinds(tmp_path))
    notes = preflight.check(config).notes
    assert sum("the prefix 'module.' was taken off its names" in note for note in notes) == 2
    assert any("sklearn.tree._tree.Tree" in note and "members.3 model 'trees:forest'" in note for note in notes)


def test_what_members_leave_open_is_settled_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(makers.MODELS)
    x, y = makers.blobs(600, 1)
    skops.io.dump(LogisticRegression().fit(x, y), tmp_path / "d.skops")
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    sure = LogisticRegression().fit(x, y)
    learned = [numpy_helper.from_array(sure.coef_.T.astype(np.float32), "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name, n in (("x", 8), ("y", 3))]
    made = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], learned))
    made.ir_version, made.opset_import[0].version = 8, 17
    save(made, tmp_path / "c.onnx")
    for ensemble in (
        {"model": {"kind": "onnx", "path": "c.onnx"}},
        {"members": [{"model": {"kind": "onnx", "path": "c.onnx"}}, {"model": {"kind": "sklearn", "path": "d.skops"}}]},
    ):
        config = loaded(tmp_path, ensemble=ensemble)
        dataset = preflight.check(config)
        assert any("is taken to return probabilities" in note for note in dataset.notes)
        found = preflight.settled(config, dataset)
        model = found.ensemble.groups[0].model
        assert isinstance(model, OnnxModel) and model.output == "probabilities"
        assert RunConfig.from_mapping(yaml.safe_load(found.to_redacted_yaml()), str(tmp_path)) == found


def test_a_student_of_trees_is_tried(tmp_path: Path) -> None:
    student = {"model": {"kind": "sklearn", "factory": "trees:boosted"}, "training": {}}
    notes = preflight.check(loaded(tmp_path, student=student)).notes
    assert any(note.startswith("The student model 'trees:boosted': its file holds types beyond") for note in notes)
    with pytest.raises(RequestError, match=r"distillation\.top_k: an estimator as the student"):
        preflight.check(loaded(tmp_path, student=student, distillation__top_k=2))
    wrong = {"model": {"kind": "sklearn", "factory": "trees:neighbours"}, "training": {}}
    with pytest.raises(RequestError, match="KNeighborsClassifier cannot be fitted to"):
        preflight.check(loaded(tmp_path, student=wrong))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a student without a fitter": (
        {"student__model": {"kind": "onnx", "path": "a.onnx"}},
        r"student: `training` is given, and the model '.*a\.onnx' of kind 'onnx' is only loaded: no fitter trains it",
    ),
    "a file that is to be trained": (
        {"ensemble": {"members": [{"model": {"kind": "sklearn", "path": "a"}, "training": {}}]}},
        r"ensemble\.members\.0: `training` is given, and the model '.*/a' of kind 'sklearn' is only loaded",
    ),
    "epochs of an estimator": (
        {"student__model": {"kind": "sklearn", "factory": "trees:forest"}},
        r"student: `training` has `epochs`, and an estimator of kind 'sklearn' is fitted at once; expected",
    ),
    "a network without epochs": ({"student__training": {}}, "student: `training` has no `epochs`"),
    "workers of an estimator": (
        {"student": {"model": {"kind": "sklearn", "factory": "trees:forest"}, "training": {}, "num_workers": 2}},
        "an estimator is fitted by one process",
    ),
    "two forms": ({"ensemble__members": [{"model": NET, "training": TRAINING}]}, "takes the place of `size`"),
    "no group": ({"ensemble": {"members": []}}, "ensemble: `members` is empty"),
    "no model": ({"ensemble": {"size": 3}}, "ensemble: `model` is missing"),
    "no source": ({"ensemble": {"members": [{"model": NET}]}}, r"members\.0: give `training` .* or `checkpoints`"),
    "several of a file": (
        {"ensemble": {"members": [{"model": {"kind": "onnx", "path": "a"}, "size": 2}]}},
        r"members\.0: `model` names one file, '.*/a', which is one member",
    ),
    "checkpoints of trees": (
        {"ensemble": {"members": [{"model": {"kind": "sklearn", "factory": "a:b"}, "checkpoints": ["a"]}]}},
        "`checkpoints` holds weights of networks; a model of kind 'sklearn' names its `path`",
    ),
    "unknown kind": (
        {"ensemble": {"members": [{"model": {"kind": "tensorflow"}}]}},
        r"members\.0\.model: unknown kind 'tensorflow'; expected python, transformers, onnx, sklearn, or a class of "
        r"your own",
    ),
    "unknown key of a kind": (
        {"ensemble": {"members": [{"model": {"kind": "onnx", "path": "a", "outputs": "b"}}]}},
        r"members\.0\.model\.outputs: unknown key; did you mean 'output'\?",
    ),
    "a wrong number of weights": (
        {"ensemble": {"members": [{"model": NET, "size": 2, "training": TRAINING}], "weights": [1]}},
        "`weights` has 1 numbers for 2 members",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_groups_are_refused_by_their_key(tmp_path: Path, case: str) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(RequestError, match=words):
        loaded(tmp_path, **changes)


def test_members_of_other_class_counts_are_refused(tmp_path: Path) -> None:
    ensemble = of_all_kinds(tmp_path)
    ensemble["members"][0]["model"]["kwargs"] = {"classes": 4}
    with pytest.raises(RequestError, match=r"members\.0 model 'models:mlp' returned \[2, 4\] .*\[2, 3\]"):
        preflight.check(loaded(tmp_path, ensemble=ensemble))
    graph(tmp_path / "c.onnx", classes=5)
    ensemble = {"members": [{"model": NET, "training": TRAINING}, {"model": {"kind": "onnx", "path": "c.onnx"}}]}
    with pytest.raises(RequestError, match=r"model '.*c\.onnx' returned \[2, 5\]"):
        preflight.check(loaded(tmp_path, ensemble=ensemble))


def test_checkpoints_in_another_order_of_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(makers.MODELS)
    spec = ModelSpec(factory="models:mlp", folder=str(tmp_path))
    module, (x, y) = torch_module.build(spec), makers.blobs(600, 1)
    fit(module, x, (y + 1) % 3)
    checkpoints.save(module.state_dict(), str(tmp_path / "a.safetensors"))
    config = loaded(tmp_path, ensemble={"model": NET, "checkpoints": ["a.safetensors"]})
    with pytest.raises(
        RequestError, match=r"a\.safetensors': ensemble model 'models:mlp' seems to have its classes in"
    ):
        preflight.check(config)


def test_mlflow_has_the_parameters_of_each_member(tmp_path: Path) -> None:
    config = loaded(tmp_path, ensemble=of_all_kinds(tmp_path))
    own = [mlflow_descriptions.params_of("member", config, f"member-{k}") for k in (0, 4, 5)]
    assert own[0]["model.factory"] == "models:mlp" and own[0]["training.epochs"] == "2"
    assert own[1]["model.path"].endswith("d.skops") and own[2]["model.factory"] == "trees:forest"
    names = [f"member-{k}" for k in range(8)]
    found = mlflow_tracker.weights_of(names, config, str(tmp_path / "runs"))
    assert [Path(found[name]).name for name in names] == [
        "model.safetensors", "model.safetensors", "0.pt", "1.pt", "d.skops", "model.skops", "model.bin", "model.bin",
    ]  # fmt: skip
