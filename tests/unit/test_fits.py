"""Estimators that learn from soft targets: what they are fitted to, and that it is what a network would learn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin

from tests import makers
from tests.makers import blobs
from workers import processes
from workers.data.dataset import Dataset, Split
from workers.errors import RequestError
from workers.evaluation import metrics
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models.predictor import FLOOR, Lessons
from workers.models.sklearn import SklearnPredictor
from workers.specs.models import SklearnModel, model_of
from workers.specs.objective import DistillationSpec
from workers.specs.training import FitSpec
from workers.targets.student_store import Store
from workers.training import fit_tasks, lessons
from workers.training.fit_tasks import FitJob

X, Y = blobs(300, 0)
MODELS = """
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsClassifier


def logistic(**kwargs):
    return LogisticRegression(C=1e6, max_iter=2000, tol=1e-8, **kwargs)


def forest():
    return RandomForestClassifier(10, n_jobs=2)


def regressor():
    return RandomForestRegressor(10)


def boosted():
    return HistGradientBoostingClassifier(max_iter=8)


def neighbours():
    return KNeighborsClassifier()


def single():
    return HistGradientBoostingRegressor(max_iter=2)


def nothing():
    return 42


class Mine(LogisticRegression):
    pass


def own():
    return Mine(C=10.0)


def halved(estimator, lessons):
    rows = len(lessons.x) // 2
    estimator.fit(lessons.x[:rows], lessons.targets[:rows].argmax(axis=1))


class Halved:
    def __call__(self, estimator, lessons):
        halved(estimator, lessons)
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """OpenMP's threads wait for each other in a loop, which is slow where others have the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(folder: Path, name: str, **kwargs: Any) -> SklearnModel:
    (folder / "models.py").write_text(MODELS)
    return SklearnModel(kind="sklearn", factory=f"models:{name}", kwargs=kwargs, folder=str(folder))


def soft(n: int = 300, classes: int = 3, seed: int = 0) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(scale=2, size=(n, classes))
    powers = np.exp(logits)
    found: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def taught(targets: NDArray[np.float32], labels: NDArray[np.int64] | None = None, x: Any = X) -> Lessons:
    return Lessons(x, targets, np.ones(len(targets), np.float32), labels, 0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_targets_are_those_that_a_networks_loss_is_least_at(temperature: float) -> None:
    """Gradient descent on the soft loss at T ends at the logits whose softmax at T = 1 is the untempered target."""
    p = torch.from_numpy(soft(20)).double()
    z = torch.zeros(20, 3, dtype=torch.float64, requires_grad=True)
    steps = torch.optim.LBFGS(
        [z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        steps.zero_grad()
        value = -(p * torch.log_softmax(z / temperature, -1)).sum() * temperature**2
        value.backward()
        return value

    steps.step(loss)
    expected = torch.softmax(z, -1).detach().numpy()
    np.testing.assert_allclose(lessons.untempered(p.numpy(), temperature), expected, atol=1e-4)


def test_a_probability_of_0_stays_0() -> None:
    found = lessons.untempered(np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], np.float16), 20.0)
    np.testing.assert_array_equal(found, [[0, 0.5, 0.5], [1, 0, 0]])


def test_soft_targets_and_labels_are_mixed_as_the_loss_weighs_them() -> None:
    """The weighted cross entropy of the mixture is the loss, for whatever answers, up to a factor."""
    p, labels, s, h = soft(6), np.array([0, 1, 2, -1, -1, 1]), 0.7, 0.3
    targets, weights = lessons.mixed(p, labels, s, h)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    for seed in (1, 2):
        logs = np.log(soft(6, seed=seed).astype(np.float64))
        labelled = labels >= 0
        of_labels = -logs[labelled, labels[labelled]].mean()
        expected = s * -(p * logs).sum(axis=1).mean() + h * of_labels
        assert np.isclose(-(weights[:, None] * targets * logs).sum() / 6, expected)
    only_labels, weights = lessons.mixed(p, labels, 0.0, 1.0)
    assert (weights[labels < 0] == 0).all() and (only_labels[0] == [1, 0, 0]).all()


def test_a_classifier_learns_the_targets_as_a_network_does(tmp_path: Path) -> None:
    """Of a linear model of these very probabilities both find the same weights."""
    weight = np.random.default_rng(1).normal(size=(8, 3))
    logits = X @ weight
    targets = np.exp(logits - logits.max(axis=1, keepdims=True))
    targets /= targets.sum(axis=1, keepdims=True)
    fitted = SklearnPredictor.fit(model(tmp_path, "logistic"), taught(targets.astype(np.float32)), "auto")
    found = np.exp(fitted(torch.from_numpy(X)).logits.numpy())
    np.testing.assert_allclose(found, targets, atol=0.01)  # labels alone are 0.3 off
    hard = SklearnPredictor.fit(
        model(tmp_path, "logistic"), taught(targets.astype(np.float32), targets.argmax(1)), "auto"
    )
    assert np.abs(np.exp(hard(torch.from_numpy(X)).logits.numpy()) - targets).max() > 0.1


def test_a_regressor_predicts_the_mean_target(tmp_path: Path) -> None:
    x = np.repeat(np.arange(4, dtype=np.float32), 25)[:, None]
    targets = soft(100)
    fitted = SklearnPredictor.fit(model(tmp_path, "regressor"), taught(targets, x=x), "auto")
    found = np.exp(fitted(torch.from_numpy(x)).logits.numpy())
    means = targets.reshape(4, 25, 3).mean(axis=1).repeat(25, axis=0)
    np.testing.assert_allclose(found, means, atol=0.12)  # bootstrap draws of 25 rows
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    one_hot = lessons.one_hot(Y, 3)
    sure = SklearnPredictor.fit(model(tmp_path, "regressor"), taught(one_hot), "auto")(torch.from_numpy(X)).logits
    assert np.isfinite(sure.numpy()).all() and sure.min() >= np.log(FLOOR) - 1


@pytest.mark.parametrize("name", ["logistic", "forest", "regressor", "boosted", "own"])
def test_what_is_fitted_is_kept_and_loaded(tmp_path: Path, name: str) -> None:
    spec = model(tmp_path, name)
    fitted = SklearnPredictor.fit(spec, taught(soft()), "auto")
    (tmp_path / "model.skops").write_bytes(fitted.dump())
    loaded = SklearnPredictor.load(spec, str(tmp_path / "model.skops"))
    assert torch.equal(loaded(torch.from_numpy(X)).logits, fitted(torch.from_numpy(X)).logits)
    assert loaded.parameters == fitted.parameters > 20
    again = SklearnPredictor.fit(spec, taught(soft()), "auto")
    assert again.dump() == fitted.dump()  # to the byte, though no random_state is given


def test_a_file_of_ones_own_is_trusted_no_further_than_its_packages(tmp_path: Path) -> None:
    """The file of a fitted estimator may hold what its factory's packages have, and nothing else."""
    import skops.io

    spec = model(tmp_path, "forest")
    fitted = SklearnPredictor.fit(spec, taught(soft()), "auto")
    assert "sklearn.tree._tree.Tree" in fitted.notes()[0]
    fitted.estimator.callback = Foreign()
    skops.io.dump(fitted.estimator, tmp_path / "model.skops")
    with pytest.raises(RequestError, match=r"does not trust: tests\.unit\.test_fits\.Foreign\. "):
        SklearnPredictor.load(spec, str(tmp_path / "model.skops"))


class Foreign(ClassifierMixin):  # type: ignore[misc]
    """A type of neither scikit-learn nor the factory."""


WRONG = {
    "neighbours": ("auto", r"KNeighborsClassifier cannot be fitted to 300 examples of 3 .*sample_weight"),
    "single": ("auto", "expected a regressor of several outputs|Expected a regressor of several outputs"),
    "nothing": ("auto", "returned int; expected an estimator of scikit-learn"),
    "boosted": ("models:Mine", "training.fit: 'models:Mine' made Mine, which is not callable; expected what is called"),
    "forest": ("weighted", "training.fit: found 'weighted'; expected auto, copies, probabilities, or `module"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_estimators_that_cannot_learn_so_are_refused(tmp_path: Path, name: str) -> None:
    how, words = WRONG[name]
    with pytest.raises(RequestError, match=words):
        SklearnPredictor.fit(model(tmp_path, name), taught(soft()), how)


@pytest.mark.parametrize("name", ["halved", "Halved"])
def test_a_way_to_fit_of_ones_own(name: str, tmp_path: Path) -> None:
    fitted = SklearnPredictor.fit(model(tmp_path, "neighbours"), taught(soft()), f"models:{name}")
    assert fitted.estimator.n_samples_fit_ == 150


def data(unlabelled: int = 0) -> Dataset:
    train = Split(X, Y)
    more = None if not unlabelled else blobs(unlabelled, 5)[0]
    return Dataset(train, Split(*blobs(60, 1)), Split(*blobs(60, 2)), more, 3)


def call(task: Any, *arguments: Any) -> Any:
    """What a Ray task returns, called in this process."""
    return task._function(*arguments)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Ray that is told."""
    monkeypatch.setattr(processes, "announce", MagicMock())


@pytest.mark.usefixtures("alone")
def test_a_student_is_fitted_to_the_store(tmp_path: Path) -> None:
    """Rows of all parts and views meet their own targets and labels; unlabelled rows count with soft targets alone."""
    given = data(unlabelled=100)
    targets = soft(400, seed=3)
    layout, parts = makers.stored(tmp_path / "store", targets, rows=64)
    loss = DistillationSpec(temperature=2.0, soft_weight=0.7, hard_weight=0.3)
    store = Store(str(tmp_path / "store"), layout, parts, temperature=2.0)
    found = lessons.soft(given.transfer, store, loss, 0)
    order = np.concatenate([layout.ids(number) for number in range(layout.parts)])
    labels = np.concatenate([Y, np.full(100, -1)])[order]
    expected, weights = lessons.mixed(lessons.untempered(targets[order], 2.0), labels, 0.7, 0.3)
    np.testing.assert_allclose(found.targets, expected, rtol=1e-5)
    np.testing.assert_allclose(found.weights, weights / weights.mean(), rtol=1e-5)
    np.testing.assert_array_equal(found.x, np.concatenate([X, given.unlabeled])[order])

    member = Member("student", model(tmp_path, "forest"), str(tmp_path / "out" / "model.skops"))
    job = FitJob(member, FitSpec(), 3, "", 1, views=1, store=store, loss=loss)
    (epoch,) = call(fit_tasks.fit, job, given, MagicMock())
    loaded = teacher.load(member)
    how = metrics.Inference("float32")
    sums = metrics.measure(metrics.log_probabilities(loaded, given.validation.x, how), given.validation.y)
    assert epoch.validation_accuracy == sums.accuracy and epoch.validation_nll == sums.mean_nll
    assert epoch.examples == 400 and epoch.train_loss > 0 and epoch.seconds > 0


@pytest.mark.usefixtures("alone")
def test_members_and_the_baseline_learn_from_labels_alone(tmp_path: Path) -> None:
    given = data(unlabelled=50)
    found = []
    for name, views in (("member-0", 0), ("baseline", 1)):
        member = Member(name, model(tmp_path, "forest"), str(tmp_path / name / "model.skops"))
        (epoch,) = call(fit_tasks.fit, FitJob(member, FitSpec(), 3, "", 1, views=views), given, MagicMock())
        assert epoch.examples == 300 and epoch.validation_accuracy > 0.6
        found.append((tmp_path / name / "model.skops").read_bytes())
    assert found[0] == found[1]  # the same seed and the same rows


RAMP = {"from": 1.0, "to": 0.0}
LOSSES: dict[str, tuple[dict[str, Any], str]] = {
    "top k": ({"top_k": 2}, r"distillation\.top_k: an estimator as the student"),
    "another term": ({"objective": [{"term": "reverse_kl"}]}, "found the term 'reverse_kl'.*expected soft and hard"),
    "a weight that changes": ({"soft_weight": RAMP}, "the weight of 'soft' follows a schedule"),
    "a T that changes": ({"temperature": {"from": 4.0, "to": 1.0}}, "temperature follows a schedule"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_losses_that_an_estimator_cannot_learn_by_are_refused(case: str) -> None:
    values, words = LOSSES[case]
    with pytest.raises(RequestError, match=words):
        lessons.weighed(DistillationSpec.model_validate(values))


def test_a_loss_in_either_form_is_weighed_alike() -> None:
    terms = [{"term": "hard", "weight": 0.2}, {"term": "soft", "weight": {"from": 0.8, "schedule": "constant"}}]
    long = DistillationSpec.model_validate({"temperature": 3.0, "objective": terms})
    assert lessons.weighed(long) == lessons.Weighed(3.0, 0.8, 0.2)
    assert lessons.weighed(DistillationSpec(temperature=3.0, soft_weight=0.8, hard_weight=0.2)) == (3.0, 0.8, 0.2)


def test_specs_of_estimators_go_through_json(tmp_path: Path) -> None:
    spec = model(tmp_path, "logistic", fit_intercept=False)
    assert model_of(spec.model_dump(mode="json")) == spec
