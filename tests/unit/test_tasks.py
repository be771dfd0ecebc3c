"""What runs as a Ray task, called without Ray: predictions, latency of one network at a time, metrics of one's own."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests import makers
from workers import ensemble, processes
from workers.artifacts import store
from workers.artifacts.kinds import PREDICTIONS
from workers.data.dataset import Dataset, Split
from workers.errors import RunError
from workers.evaluation import latency, tasks
from workers.evaluation.metrics import Inference
from workers.evaluation.tasks import Asked
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.models.predictor import Predictor
from workers.specs import FactorySpec, ModelSpec


@pytest.fixture(autouse=True)
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "announce", lambda name, events: None)


def call(job: Any, *arguments: Any) -> Any:
    """What the task computes, in this process."""
    threads = torch.get_num_threads()
    try:
        return job._function(*arguments, "task", None)
    finally:
        torch.set_num_threads(threads)


def data() -> Dataset:
    split = Split(*makers.blobs(40, 3))
    return Dataset(split, split, split, None, 3)


def members(folder: Path, count: int, hidden: int = 24) -> list[Asked]:
    (folder / "models.py").write_text(makers.MODELS)
    spec = ModelSpec(factory="models:mlp", kwargs={"hidden": hidden}, folder=str(folder))
    found = []
    for k in range(count):
        weights = str(folder / f"{k}.safetensors")
        checkpoints.save(torch_module.build(spec, seed=k).state_dict(), weights)
        found.append((Member(f"member-{k}", spec, weights), Inference()))
    return found


def test_one_network_is_held_at_a_time_and_each_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    alive: weakref.WeakSet[Predictor] = weakref.WeakSet()
    most = 0
    load = teacher.load

    def counted(member: Member) -> Predictor:
        nonlocal most
        predictor = load(member)
        gc.collect()
        loaded.append(member.name)
        alive.add(predictor)
        most = max(most, len(alive))
        return predictor

    monkeypatch.setattr(teacher, "load", counted)
    *of_ensemble, baseline, student = members(tmp_path, 5)
    found = call(tasks.describe, tasks.Measurement(of_ensemble, [baseline, student], "arithmetic", 3), data())
    assert loaded == [f"member-{k}" for k in range(5)] and most == 1
    assert found.keys() == {*loaded, "ensemble"}
    parameters = 8 * 24 + 24 + 24 * 3 + 3
    assert found["member-0"].parameters == parameters and found["ensemble"].parameters == 3 * parameters
    member, whole = found["member-0"], found["ensemble"]
    assert 0 < member.latency_ms["p50"] < whole.latency_ms["p50"] <= whole.latency_ms["p99"]
    assert member.per_second > whole.per_second > 0


def test_an_ensemble_answers_as_fast_as_with_all_members_in_memory(tmp_path: Path) -> None:
    asked = members(tmp_path, 6, hidden=4000)
    loaded = [teacher.load(member) for member, _ in asked]

    def all_of_them(x: torch.Tensor) -> torch.Tensor:
        return ensemble.average([torch.softmax(member(x).logits, -1) for member in loaded])

    ratios = []
    for _ in range(5):  # other processes disturb some of them
        apart = call(tasks.describe, tasks.Measurement(asked, [], "arithmetic", 40), data())["ensemble"].latency_ms
        example = torch.from_numpy(data().test.x[:1])
        together = latency.percentiles(latency.times_ms(lambda _, x=example: all_of_them(x), example.device, 40))
        ratios.append(apart["p50"] / together["p50"])
    assert 0.5 < np.median(ratios) < 2.0


def test_one_member_is_its_own_ensemble(tmp_path: Path) -> None:
    found = call(tasks.describe, tasks.Measurement(members(tmp_path, 1), [], "geometric", 3), data())
    assert found["ensemble"] == found["member-0"]


def test_predictions_are_kept_and_may_be_of_labels_alone(tmp_path: Path) -> None:
    (asked,) = members(tmp_path, 1)
    record, key = str(tmp_path / "kept.json"), PREDICTIONS.key(split="test")
    found = call(tasks.predict, tasks.Prediction(asked, "test", False, 1, (record, key)), data())
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-6)
    assert store.load(record, key) is not None and store.load(record, PREDICTIONS.key(split="train")) is None
    np.testing.assert_array_equal(safetensors.numpy.load_file(tasks.kept_beside(record))[tasks.PREDICTED], found)
    of_labels = call(tasks.predict, tasks.Prediction(asked, "validation", True, 1, None), data())
    np.testing.assert_array_equal(of_labels, found[np.arange(40), data().test.y])


@pytest.mark.parametrize("of_labels", [True, False])
def test_an_answer_that_is_no_number_is_named(tmp_path: Path, of_labels: bool) -> None:
    ((member, how),) = members(tmp_path, 1)
    module = teacher.load(member).module
    assert module is not None
    weights = module.state_dict()
    weights["0.weight"][:] = float("inf")
    checkpoints.save(weights, member.weights)
    with pytest.raises(RunError, match="member-0 answers NaN for example 0 of the test split, and for 40 in all"):
        call(tasks.predict, tasks.Prediction((member, how), "test", of_labels, 1, None), data())


def test_metrics_of_ones_own_get_probabilities(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def of(probabilities, labels, least):\n"
        "    assert str(probabilities.dtype) == 'float32' and (probabilities >= least).all()\n"
        "    return {'mass': probabilities.sum(), 'first': probabilities[0, labels[0]]}\n"
    )
    predicted = np.log(np.array([[0.25, 0.75]], np.float32))
    spec = FactorySpec(factory="own:of", kwargs={"least": 0.0}, folder=str(tmp_path))
    found = call(tasks.custom_metrics, [spec], predicted, np.array([1]))
    assert found == {"mass": pytest.approx(1.0), "first": pytest.approx(0.75)}
