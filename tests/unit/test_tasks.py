"""What runs as a Ray task, called without Ray: predictions, latency of one network at a time, metrics of one's own."""

from __future__ import annotations

import gc
import inspect
import weakref
from dataclasses import replace
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
from workers.evaluation import latency, metrics, mixture, tasks
from workers.evaluation.metrics import Inference
from workers.evaluation.tasks import Subject
from workers.faults import Fault
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.models.predictor import Predictor
from workers.specs.base import FactorySpec
from workers.specs.models import ModelSpec


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


def members(folder: Path, count: int, hidden: int = 24) -> list[Subject]:
    (folder / "models.py").write_text(makers.MODELS)
    spec = ModelSpec(factory="models:mlp", kwargs={"hidden": hidden}, folder=str(folder))
    found = []
    for k in range(count):
        weights = str(folder / f"{k}.safetensors")
        checkpoints.save(torch_module.build(spec, seed=k).state_dict(), weights)
        found.append((Member(f"member-{k}", spec, weights), Inference()))
    return found


def test_a_task_takes_its_name_and_a_queue_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[tuple[str, Any]] = []
    monkeypatch.setattr(processes, "announce", lambda name, events: announced.append((name, events)))
    task = processes.task(lambda a, b: a // b)
    inspect.signature(task._function).bind(6, 3, "halving", "queue")  # Ray checks calls so
    assert task._function(6, 3, "halving", "queue") == 2 and announced == [("halving", "queue")]
    with pytest.raises(Fault, match="ZeroDivisionError"):
        task._function(6, 0, "halving", "queue")


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
    assert member.latency_ms["p50"] > 0 and 0 < whole.latency_ms["p50"] <= whole.latency_ms["p99"]
    assert member.per_second > whole.per_second > 0


def test_an_ensemble_answers_as_fast_as_with_all_members_in_memory(tmp_path: Path) -> None:
    asked = members(tmp_path, 6, hidden=4000)
    loaded = [teacher.load(member) for member, _ in asked]

    def all_of_them(x: torch.Tensor) -> torch.Tensor:
        return ensemble.average([torch.softmax(member(x).logits, -1) for member in loaded])

    apart_ms, together_ms = [], []
    for _ in range(5):  # other processes disturb some of them
        found = call(tasks.describe, tasks.Measurement(asked, [], "arithmetic", 40), data())["ensemble"]
        example = torch.from_numpy(data().test.x[:1])
        together = latency.percentiles(latency.times_ms(lambda _, x=example: all_of_them(x), example.device, 40))
        apart_ms.append(found.latency_ms["p50"])
        together_ms.append(together["p50"])
    assert 0.5 < min(apart_ms) / min(together_ms) < 2.0


def test_the_latency_of_an_ensemble_is_the_sum_of_its_members_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th measurement of series k is 10 k + n ms: each member has one alone and one in turn, the mean the last."""
    displaced: list[int] = []

    def timed(answer: Any, place: Any, repeats: int, others: int = 0) -> np.ndarray:
        displaced.append(others)
        return 10.0 * len(displaced) + np.arange(repeats)

    monkeypatch.setattr(latency, "times_ms", timed)
    asked = members(tmp_path, 3)
    found = call(tasks.describe, tasks.Measurement(asked, [], "arithmetic", 3), data())
    assert displaced == [0, 2 * checkpoints.size(asked[0][0].weights)] * 3 + [0]
    assert [found[f"member-{k}"].latency_ms["p50"] for k in range(3)] == [11.0, 31.0, 51.0]
    assert found["ensemble"].latency_ms["p50"] == 20.0 + 40.0 + 60.0 + 70.0 + 4 * 1


def test_one_member_is_its_own_ensemble(tmp_path: Path) -> None:
    found = call(tasks.describe, tasks.Measurement(members(tmp_path, 1), [], "geometric", 3), data())
    assert found["ensemble"] == found["member-0"]


def test_predictions_are_kept_and_may_be_of_labels_alone(tmp_path: Path) -> None:
    (asked,) = members(tmp_path, 1)
    record, key = str(tmp_path / "kept.json"), PREDICTIONS.key(split="test")
    call(tasks.predict, tasks.Prediction(asked, "test", False, 1, (record, key)), data())
    (file,) = tmp_path.glob("kept-*.safetensors")
    found = safetensors.numpy.load_file(file)[tasks.PREDICTED]
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-6)
    assert store.load(record, key) is not None and store.load(record, PREDICTIONS.key(split="train")) is None
    np.testing.assert_array_equal(tasks.read_kept(record), found)
    other = PREDICTIONS.key(split="validation")
    call(tasks.predict, tasks.Prediction(asked, "validation", True, 1, (record, other)), data())
    assert not file.exists() and len([*tmp_path.glob("kept-*.safetensors")]) == 1  # the earlier one has gone
    np.testing.assert_array_equal(tasks.read_kept(record), found[np.arange(40), data().test.y])


def test_predictions_that_were_copied_from_another_system_do_not_meet_its_own(tmp_path: Path) -> None:
    """The student of one run is a member of another, which has a student of its own."""
    of_student, of_member = (str(tmp_path / folder / "student-test.json") for folder in ("one", "other"))
    first, second = members(tmp_path, 2)
    key, own = PREDICTIONS.key(split="test"), PREDICTIONS.key(split="test", seed=1)
    call(tasks.predict, tasks.Prediction(first, "test", False, 1, (of_student, key)), data())
    copied = str(tmp_path / "other" / "member-0-test.json")
    assert store.copy(of_student, copied, key)
    call(tasks.predict, tasks.Prediction(second, "test", False, 1, (of_member, own)), data())
    np.testing.assert_array_equal(tasks.read_kept(copied), tasks.read_kept(of_student))
    assert not np.array_equal(tasks.read_kept(copied), tasks.read_kept(of_member))
    with pytest.raises(RunError, match="is gone, or no record of predictions"):
        tasks.read_kept(str(tmp_path / "other" / "baseline-test.json"))


@pytest.mark.parametrize("combine", ["arithmetic", "geometric"])
@pytest.mark.parametrize("kept", [0, 2, 3])
def test_sums_of_ranges_add_up(tmp_path: Path, kept: int, combine: str) -> None:
    asked, whole = members(tmp_path, 3), data()
    records = {member.name: str(tmp_path / f"{member.name}.json") for member, _ in asked}
    for member, how in asked:
        job = tasks.Prediction((member, how), "test", False, 1, (records[member.name], PREDICTIONS.key(split="test")))
        call(tasks.predict, job, whole)
    of_each = [tasks.read_kept(record) for record in records.values()]
    job = tasks.Measuring(asked, dict([*records.items()][:kept]), 1, [0.5, 0.3, 0.2], combine)
    first, *others = (call(tasks.measure, job, each, whole) for each in (slice(0, 7), slice(7, 8), slice(8, 40)))
    found = sum(others, start=first)
    blocks = metrics.blocks_of(whole, "test", np.arange(40))
    curve = mixture.curve(of_each, [0.5, 0.3, 0.2], combine, whole.test.y, blocks)
    assert found.curve.examples == 40 and (found.curve.right == curve.right).all()
    np.testing.assert_allclose(found.curve.nll, curve.nll, rtol=1e-6)
    expected = {name: metrics.measure(p, whole.test.y) for name, p in zip(records, of_each, strict=True)}
    expected["ensemble"] = mixture.measure_mean(of_each, [0.5, 0.3, 0.2], combine, whole.test.y)
    assert found.sums.keys() == expected.keys()
    for name, sums in expected.items():
        assert found.sums[name].figures == pytest.approx(sums.figures, rel=1e-6)
        np.testing.assert_array_equal(found.sums[name].confusion, sums.confusion)
    alone = replace(job, systems=asked[:1], weights=None)
    assert call(tasks.measure, alone, slice(0, 40), whole).curve is None


@pytest.mark.parametrize("of_labels", [True, False])
def test_an_answer_that_is_no_number_is_named(tmp_path: Path, of_labels: bool) -> None:
    ((member, how),) = members(tmp_path, 1)
    module = teacher.load(member).module
    assert module is not None
    weights = module.state_dict()
    weights["0.weight"][:] = float("inf")
    checkpoints.save(weights, member.weights)
    with pytest.raises(RunError, match="member-0 answers NaN for example 0 of the test split, and for 40 in all"):
        record, key = str(tmp_path / "kept.json"), PREDICTIONS.key(split="test")
        call(tasks.predict, tasks.Prediction((member, how), "test", of_labels, 1, (record, key)), data())
    with pytest.raises(RunError, match="member-0 answers NaN for example 30 of the test split, and for 10 in all"):
        call(tasks.measure, tasks.Measuring([(member, how)], {}, 1), slice(30, 40), data())


def test_metrics_of_ones_own_get_probabilities(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def of(probabilities, labels, least):\n"
        "    assert str(probabilities.dtype) == 'float32' and (probabilities >= least).all()\n"
        "    return {'mass': probabilities.sum(), 'first': probabilities[0, labels[0]]}\n"
    )
    spec = FactorySpec(factory="own:of", kwargs={"least": 0.0}, folder=str(tmp_path))
    asked, whole, ranges = members(tmp_path, 2), data(), [slice(0, 1), slice(1, 40)]
    each = [metrics.predict(teacher.load(member), whole.test.x)[0, whole.test.y[0]] for member, _ in asked]
    for systems, weights, first in ((asked[:1], None, each[0]), (asked, [1.0, 1.0], np.mean(each))):
        found = call(
            tasks.custom_metrics, tasks.CustomMetrics([spec], tasks.Measuring(systems, {}, 1, weights), ranges), whole
        )
        figures = {name: metric.value for name, metric in found.items()}
        assert figures == {"mass": pytest.approx(40.0), "first": pytest.approx(first, rel=1e-5)}
