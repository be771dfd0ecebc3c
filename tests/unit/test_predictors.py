"""Models of every kind answer as what they were made from, or are refused by name."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skops.io
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from tests.makers import blobs
from workers.data.collate import NamedInputs, Strip
from workers.data.dataset import Split
from workers.errors import RequestError
from workers.inference.teacher import Asked, Member, Teacher, follows_from, load
from workers.models import onnx_file, predictor
from workers.models.predictor import FLOOR, Outputs, Predictor
from workers.specs.models import AnyModel, OnnxModel, SklearnFile, model_of
from workers.trial import loaded_models
from workers.trial.odd_rows import OddRow

X, Y = blobs(60, 0)
TREE = "sklearn.tree._tree.Tree"
GENERATOR = np.random.default_rng(0)
WEIGHT = GENERATOR.normal(size=(8, 3)).astype(np.float32)
BIAS = GENERATOR.normal(size=3).astype(np.float32)


def loaded(model: AnyModel, *odd: OddRow) -> loaded_models.Loaded:
    return loaded_models.Loaded("ensemble", model, Split(X, Y), 3, odd)


def graph(
    path: Path,
    *,
    softmax: bool = False,
    kind: int = TensorProto.FLOAT,
    batch: int | str = "N",
    width: int = 8,
    classes: int = 3,
    more: str = "",
) -> str:
    """A linear model as a file of ONNX. more: a further `input` or `output`."""
    weight = WEIGHT if (width, classes) == (8, 3) else np.resize(WEIGHT, (width, classes))
    nodes = [
        helper.make_node("Cast", ["x"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["as_float", "w", "b"], ["z"]),
        helper.make_node("Softmax" if softmax else "Identity", ["z"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", kind, [batch, width])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])]
    if more == "input":
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, 8]))
    if more == "output":
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, classes]))
    learned = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.resize(BIAS, classes), "b")]
    model = helper.make_model(helper.make_graph(nodes, "linear", inputs, outputs, learned))
    model.ir_version, model.opset_import[0].version = 8, 17
    onnx.save(model, path)
    return str(path)


def answers(model: AnyModel, x: NDArray[Any] = X, weights: str = "") -> NDArray[np.float32]:
    with torch.no_grad():
        return predictor.load(model, weights or model.file or "")(torch.from_numpy(x)).logits.numpy()


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("batch", ["N", 1, 16])
def test_a_graph_of_logits(tmp_path: Path, batch: int | str) -> None:
    model = OnnxModel(kind="onnx", path=graph(tmp_path / "a.onnx", batch=batch))
    np.testing.assert_allclose(answers(model), X @ WEIGHT + BIAS, rtol=1e-5, atol=1e-5)
    assert predictor.load(model, model.path).parameters == 8 * 3 + 3


def test_what_a_graph_returns_is_seen_on_examples(tmp_path: Path) -> None:
    examples, expected = Split(X, Y), softmax(X @ WEIGHT + BIAS)
    for ends, found in ((True, "probabilities"), (False, "logits")):
        given = OnnxModel(kind="onnx", path=graph(tmp_path / "a.onnx", softmax=ends))
        model, (note,) = loaded_models.settle(given, given.path, examples)
        assert isinstance(model, OnnxModel) and model.output == found
        assert f"a.onnx' is taken to return {found}: its rows for 60 training examples" in note
        np.testing.assert_allclose(softmax(answers(model)), expected, rtol=1e-4)
        assert loaded_models.settle(model, model.path, examples) == (model, ())  # it is decided once
    given = OnnxModel(kind="onnx", path=graph(tmp_path / "a.onnx", softmax=True), output="logits")
    assert loaded_models.settle(given, given.path, examples) == (given, ())


def test_whole_numbers_for_a_graph_of_bytes(tmp_path: Path) -> None:
    model = OnnxModel(kind="onnx", path=graph(tmp_path / "a.onnx", kind=TensorProto.UINT8))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8)).astype(np.uint8)
    np.testing.assert_allclose(answers(model, pixels), pixels @ WEIGHT + BIAS, rtol=1e-4)
    with pytest.raises(RequestError, match="has fractions or numbers beyond it"):
        answers(model, pixels.astype(np.int64) + 256)


def test_a_graph_of_a_fixed_length_needs_a_dynamic_one(tmp_path: Path) -> None:
    path = graph(tmp_path / "a.onnx")
    found = predictor.load(OnnxModel(kind="onnx", path=path, output="logits"), path)
    with pytest.raises(RequestError, match=r"'x' is \[N, 8\], .* is \[3\]. Expected a dynamic length"):
        found(NamedInputs({"x": Strip(torch.ones(5), np.array([3, 2]))}))


def test_a_graph_of_one_number_for_each_row_is_refused_by_its_shape(tmp_path: Path) -> None:
    summed = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)
    shapes = (("x", ["N", 8]), ("y", ["N"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    made = helper.make_model(helper.make_graph([summed], "mean", ends[:1], ends[1:]))
    made.ir_version, made.opset_import[0].version = 8, 17
    onnx.save(made, tmp_path / "a.onnx")
    model = OnnxModel(kind="onnx", path=str(tmp_path / "a.onnx"), output_name="y")
    settled, notes = loaded_models.settle(model, model.path, Split(X, Y))
    assert (settled, notes) == (model, ())
    with pytest.raises(RequestError, match=r"returned \[2\] for a batch of 2; expected logits"):
        loaded_models.check_file(loaded(model), model.path)


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "width": ({"width": 5}, {}, r"its input 'x' is \[N, 5\], and an example of data.train is \[8\]"),
    "inputs": ({"more": "input"}, {}, r"has the inputs 'x' \[N, 8\], 'mask' \[N, 8\]; expected a column for each, and "
               "'x' is none: it is given one dense column without a name"),
    "outputs": ({"more": "output"}, {}, r"has 2 outputs of numbers \[B, K\] or \[B, L, K\]; expected one, or"),
    "name": ({}, {"output_name": "probs"}, r"has no output 'probs'. It has 'y' tensor\(float\) \[N, 3\]\. Set `"),
    "whole numbers": ({"kind": TensorProto.INT64}, {}, r"'x' takes tensor\(int64\), and data.train has fractions"),
    "texts": ({"kind": TensorProto.STRING}, {}, r"its input 'x' takes tensor\(string\); expected tensor\(float\)"),
    "classes": ({"classes": 4}, {}, r"ensemble model '.*a\.onnx' returned \[2, 4\] for a batch of 2; expected logits"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_graphs_that_do_not_fit_are_named(tmp_path: Path, case: str) -> None:
    made, asked, words = WRONG[case]
    model = OnnxModel(kind="onnx", path=graph(tmp_path / "a.onnx", **made), **asked)
    with pytest.raises(RequestError, match=words):
        loaded_models.check_file(loaded(model), model.path)


@pytest.mark.parametrize("batch", ["N", 2])
def test_a_graph_takes_columns_by_their_names(tmp_path: Path, batch: int | str) -> None:
    """As an exported encoder: token ids, their mask, and types of tokens that single texts do not have."""
    table = GENERATOR.normal(size=(20, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Add", ["input_ids", "token_type_ids"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["rows", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["y"], keepdims=0),
    ]
    names = ("attention_mask", "input_ids", "token_type_ids")
    made = helper.make_graph(
        nodes, "bag", [helper.make_tensor_value_info(name, TensorProto.INT64, [batch, "L"]) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2]), "last"),
         numpy_helper.from_array(np.array([1]), "middle")],
    )  # fmt: skip
    whole = helper.make_model(made)
    whole.ir_version, whole.opset_import[0].version = 8, 17
    onnx.save(whole, tmp_path / "a.onnx")
    ids, mask = torch.randint(0, 20, (5, 4)), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).repeat(3, 1)[:5]
    model = OnnxModel(kind="onnx", path=str(tmp_path / "a.onnx"), output="logits")
    loaded = predictor.load(model, model.path)
    found = loaded(NamedInputs({"input_ids": ids.int(), "attention_mask": mask})).logits.numpy()
    np.testing.assert_allclose(found, (table[ids] * mask.numpy()[:, :, None]).sum(1), rtol=1e-5)
    with pytest.raises(
        RequestError,
        match=r"'attention_mask' is none: it is given input_ids, x, token_type_ids\. For texts, `tokenizer`",
    ):
        loaded(NamedInputs({"input_ids": ids, "x": mask}))


def test_files_that_are_no_graph_are_named(tmp_path: Path) -> None:
    path, model = tmp_path / "a.onnx", OnnxModel(kind="onnx", path=str(tmp_path / "a.onnx"))
    graph(path)
    cut = path.read_bytes()[:-30]
    for content in (b"", b"\xff" * 50, b"neither", cut, pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"a\.onnx' is no (file of ONNX|graph that ONNX Runtime can load) \("):
            predictor.load(model, model.path)
    external = onnx.load(graph(path))
    onnx.save(external, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(RequestError, match="keeps its weights in another file"):
        predictor.load(model, model.path)


def test_numbers_of_a_graph_are_counted_without_onnx() -> None:
    arrays = [np.ones((3, 4), np.float32), np.ones(5, np.float16), np.ones((2, 2), np.int8), np.array([7, 7], np.int64)]
    tensors = [numpy_helper.from_array(array, f"t{k}") for k, array in enumerate(arrays)]
    model = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    assert onnx_file.describe(model.SerializeToString()) == onnx_file.Described(12 + 5 + 4, False)


def kept(path: Path, estimator: Any) -> str:
    skops.io.dump(estimator, path)
    return str(path)


def test_a_forest_answers_in_the_order_of_its_classes(tmp_path: Path) -> None:
    """Its labels begin with class 2, and class 1 is one that it never saw."""
    names = np.array([0, 2, 2])[Y]
    forest = RandomForestClassifier(5, random_state=0, n_jobs=2).fit(X, names)
    model = SklearnFile(kind="sklearn", path=kept(tmp_path / "a.skops", forest), trusted=(TREE,))
    expected = np.zeros((60, 3))
    expected[:, [0, 2]] = forest.predict_proba(X)
    expected = np.maximum(expected, FLOOR)
    found = answers(model)
    np.testing.assert_allclose(np.exp(found), expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)
    assert np.isfinite(found).all() and found.dtype == np.float32
    nodes = sum(tree.tree_.node_count for tree in forest.estimators_)
    assert 8 * nodes < predictor.load(model, model.path).parameters < 16 * nodes
    for t in (0.5, 4.0):  # T acts on probabilities as softmax(log p / T)
        powers = expected ** (1 / t)
        np.testing.assert_allclose(softmax(found / t), powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)


def test_files_of_skops_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.skops"
    model = SklearnFile(kind="sklearn", path=kept(path, RandomForestClassifier(2).fit(X, Y)))
    with pytest.raises(RequestError, match=rf"a\.skops' holds types that skops does not trust: {TREE}.*trusted: \["):
        predictor.load(model, model.path)
    for estimator, words in (
        (LogisticRegression().fit(X, np.array(["a", "b"])[Y % 2]), r"has the classes \[.*'a'.*\]; expected the class"),
        (Ridge().fit(X, Y), "is Ridge without predict_proba"),
        ({"no": "estimator"}, "is dict without predict_proba"),
    ):  # fmt: skip
        kept(path, estimator)
        with pytest.raises(RequestError, match=words):
            predictor.load(model, model.path)
    path.write_bytes(pickle.dumps(LogisticRegression().fit(X, Y)))
    with pytest.raises(RequestError, match=r"is no file of skops.*a pickle is not read"):
        predictor.load(model, model.path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(RequestError, match=r"cannot be read by skops \(KeyError"):
        predictor.load(model, model.path)
    fewer = SklearnFile(kind="sklearn", path=kept(path, LogisticRegression().fit(X, Y % 2)))
    with pytest.raises(RequestError, match=r"returned \[2, 2\] for a batch of 2; expected logits \[2, 3\]"):
        loaded_models.check_file(loaded(fewer), fewer.path)


class Evil:
    """A type that a file would make on loading."""

    def __init__(self) -> None:
        self.command = "touch executed"


def test_types_of_ones_own_are_not_trusted(tmp_path: Path) -> None:
    forest = LogisticRegression().fit(X, Y)
    forest.callback = Evil()
    model = SklearnFile(kind="sklearn", path=kept(tmp_path / "a.skops", forest))
    with pytest.raises(RequestError, match=r"does not trust: tests\.unit\.test_predictors\.Evil"):
        predictor.load(model, model.path)


def test_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    swapped = np.array([1, 2, 0])[Y]
    model = SklearnFile(kind="sklearn", path=kept(tmp_path / "a.skops", LogisticRegression().fit(X, swapped)))
    with pytest.raises(RequestError, match="classes in another order: what the labels say is 0 it calls 1, 1 it calls"):
        loaded_models.check_file(loaded(model), model.path)
    right = SklearnFile(kind="sklearn", path=kept(tmp_path / "b.skops", LogisticRegression().fit(X, Y)))
    assert (
        loaded_models.check_file(
            loaded(right, OddRow("test", 3, "all zeros", np.zeros((1, 8), np.float32))), right.path
        )
        == ()
    )


def test_classes_in_another_order_are_refused_of_a_slow_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked two rows at once, and enough of each class altogether."""
    monkeypatch.setattr("workers.trial.answers.AFFORDABLE_S", 1e-9)
    swapped = np.array([1, 0, 2])[Y]
    model = SklearnFile(kind="sklearn", path=kept(tmp_path / "a.skops", LogisticRegression().fit(X, swapped)))
    with pytest.raises(RequestError, match="classes in another order: what the labels say is 0 it calls 1, 1 it calls"):
        loaded_models.check_file(loaded(model), model.path)


def test_members_of_several_kinds_share_a_teacher(tmp_path: Path) -> None:
    net = torch.nn.Linear(8, 3)
    linear = load(Member("graph", OnnxModel(kind="onnx", path="", output="logits"), graph(tmp_path / "a.onnx")))
    file = kept(tmp_path / "a.skops", LogisticRegression().fit(X, Y))
    sums = load(Member("sums", SklearnFile(kind="sklearn", path=""), file))
    members: dict[str, Predictor | torch.nn.Module] = {"net": net, "graph": linear, "sums": sums}
    x, weights = torch.from_numpy(X), {"net": 0.5, "graph": 0.25, "sums": 0.25}
    teacher = Teacher(members, micro_batch=16, classes=3)
    assert teacher.prepare(None, x) is False and set(teacher.modules) == {"net"}
    (total,) = teacher.soften_all([Asked(x)], temperature=2.0, weights=weights, combine="arithmetic")
    with torch.no_grad():
        each = [net(x), linear(x).logits, sums(x).logits]
    expected = sum(w * torch.softmax(z / 2.0, -1) for w, z in zip(weights.values(), each, strict=True))
    torch.testing.assert_close(total / 2.0**30, expected, atol=1e-6, rtol=0)


def test_a_file_follows_from_its_content_and_its_settings(tmp_path: Path) -> None:
    one = Member("a", OnnxModel(kind="onnx", path=graph(tmp_path / "a.onnx")), str(tmp_path / "a.onnx"))
    moved = Member("b", OnnxModel(kind="onnx", path=graph(tmp_path / "b.onnx")), str(tmp_path / "b.onnx"))
    assert follows_from(one) == follows_from(moved)
    graph(tmp_path / "b.onnx", softmax=True)
    assert follows_from(one) != follows_from(moved)
    settings = Member("a", OnnxModel(kind="onnx", path="a", output="logits"), str(tmp_path / "a.onnx"))
    assert follows_from(one) != follows_from(settings)


OWN = """
import json
import numpy as np
import torch
from workers.models.predictor import Fittable, Outputs, Predictor, log_probabilities


class Centres(Fittable):
    '''Nearest centre of each class; kept as JSON.'''

    parameters = 24

    def __init__(self, centres):
        self.centres = torch.tensor(centres)

    @classmethod
    def load(cls, model, weights):
        return cls(json.load(open(weights)))

    @classmethod
    def fit(cls, model, lessons, how):
        share = lessons.targets / lessons.targets.sum(axis=0)
        return cls((share.T @ lessons.x).tolist())

    def dump(self):
        return json.dumps(self.centres.tolist()).encode()

    def __call__(self, x, precision="float32"):
        return Outputs(-torch.cdist(x, self.centres) ** 2, hidden_states=(x,))


class Nothing:
    pass


class Loaded(Predictor):
    pass
"""


def test_a_kind_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "centres.json").write_text(str(np.zeros((3, 8)).tolist()))
    model = model_of({"kind": "own:Centres", "path": str(tmp_path / "centres.json"), "folder": str(tmp_path)})
    member = predictor.load(model, model.file or "")
    assert isinstance(member, Predictor) and member.parameters == 24
    outputs = member(torch.from_numpy(X))
    assert isinstance(outputs, Outputs) and torch.equal(outputs.hidden_states[0], torch.from_numpy(X))
    torch.testing.assert_close(outputs.logits, -(torch.from_numpy(X) ** 2).sum(1, keepdim=True).expand(60, 3))
    for name, words in (
        ("Nothing", "expected a subclass of workers.models"),
        ("Absent", "no function or class 'Absent'"),
    ):
        with pytest.raises(RequestError, match=words):
            predictor.kind_of(model_of({"kind": f"own:{name}", "folder": str(tmp_path)}))
    with pytest.raises(RequestError, match=r"is to be trained, and Loaded has no `fit`"):
        predictor.fittable(model_of({"kind": "own:Loaded", "folder": str(tmp_path)}))


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "skops", "skops.io"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    model = OnnxModel(kind="onnx", path=graph(tmp_path / "a.onnx"))
    with pytest.raises(RequestError, match=r"needs the package onnxruntime.*pip install 'stillhouse\[onnx\]'"):
        predictor.load(model, model.path)
    with pytest.raises(RequestError, match=r"needs the package skops.*pip install 'stillhouse\[sklearn\]'"):
        predictor.load(SklearnFile(kind="sklearn", path=model.path), model.path)


def test_answers_do_not_depend_on_the_rows_beside_them(tmp_path: Path) -> None:
    """A graph that subtracts the batch's mean is refused before a run."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(WEIGHT, "w")]))
    model.ir_version, model.opset_import[0].version = 8, 17
    onnx.save(model, tmp_path / "a.onnx")
    asked = OnnxModel(kind="onnx", path=str(tmp_path / "a.onnx"))
    with pytest.raises(RequestError, match="answers an example differently where others are beside it"):
        loaded_models.check_file(loaded(asked), asked.path)


def test_the_same_estimator_is_the_same_file() -> None:
    from workers.models.sklearn import _canonical

    def made() -> bytes:
        return _canonical(skops.io.dumps(RandomForestClassifier(3, random_state=0).fit(X, Y)))

    first, again = made(), made()
    assert first == again
    estimator = skops.io.loads(first, trusted=[TREE])
    assert zipfile.ZipFile(io.BytesIO(first)).testzip() is None
    np.testing.assert_array_equal(
        estimator.predict_proba(X), RandomForestClassifier(3, random_state=0).fit(X, Y).predict_proba(X)
    )
