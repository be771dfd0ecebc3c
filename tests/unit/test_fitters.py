"""Stages around members and students of several kinds, with tasks that run in this process instead of on Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from orchestrator.cluster.resources import Machines, Node
from orchestrator.cluster.tasks import Task
from orchestrator.observers.terminal import Screen
from orchestrator.plan import plan as plans
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import beside, evaluation, members, preflight, ray_tasks, training
from orchestrator.stages.context import Context, Options
from orchestrator.stages.fitters import StudentJob
from tests import makers
from tests.unit.test_fits import one_thread as one_thread
from tests.unit.test_groups import loaded, of_all_kinds
from workers import ensemble, processes
from workers.artifacts.catalogue import Catalogue
from workers.artifacts.kinds import SOFT_TARGETS
from workers.data import loading, texts
from workers.data.examples import Columns
from workers.evaluation import metrics
from workers.inference import teacher
from workers.models import checkpoints
from workers.specs.models import ModelSpec, SklearnModel
from workers.specs.objective import DistillationSpec
from workers.targets.student_store import Store

MACHINES = Machines((Node(1, 0),), False)
KEY = SOFT_TARGETS.key(of="a")


def inline(pending: Sequence[Task], *_: Any, **__: Any) -> Iterator[tuple[Task, Any]]:
    """`cluster.tasks.completed` without Ray."""
    threads = torch.get_num_threads()
    try:
        yield from ((task, task.job._function(*task.arguments)) for task in pending)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tasks, "completed", inline)
    monkeypatch.setattr(processes, "announce", MagicMock())


def begun(folder: Path, **changes: Any) -> Context:
    config = loaded(folder, **changes)
    dataset = loading.load(config.data, config.seed)
    config = preflight.settled(config, dataset)
    plan = plans.plan(config, Facts(DataFacts.of(dataset), MACHINES))
    data: Any = dataset
    return Context(
        config=config, dataset=dataset, data=data, machines=MACHINES, plan=plan, events=MagicMock(),
        heartbeat=MagicMock(), artifacts=Catalogue(config.storage, config.name),
        options=Options(verbose=False, screen=Screen(quiet=True)),
    )  # fmt: skip


def student(folder: Path, name: str) -> dict[str, Any]:
    return {"model": {"kind": "sklearn", "factory": f"trees:{name}"}, "training": {}}


def test_members_of_every_kind_are_trained_or_loaded_and_measured(tmp_path: Path) -> None:
    run = begun(tmp_path, ensemble=of_all_kinds(tmp_path))
    trained = members.members(run)
    assert [each.member.name for each in trained] == [f"member-{k}" for k in range(8)]
    assert [len(each.history) for each in trained] == [2, 2, 0, 0, 0, 1, 1, 1]
    names = {Path(each.member.weights).name for each in trained}
    assert names == {"model.safetensors", "0.pt", "1.pt", "d.skops", "model.skops", "model.bin"}
    folder = tmp_path / "runs" / "small"
    assert json.loads((folder / "members/5/training.json").read_text())["files"]["model.skops"]
    teachers = [each.member for each in trained]
    measured = evaluation.measure_ensemble(run, teachers)
    how, split = metrics.Inference("float32"), run.dataset.test
    for member in teachers:
        expected = metrics.measure(metrics.log_probabilities(teacher.load(member), split.x, how), split.y)
        assert measured.measured[member.name].sums.accuracy == expected.accuracy > 0.6
    state = Path(trained[0].member.weights).parent / checkpoints.STATE
    state.write_bytes(b"")  # as a run leaves it that is killed before it removes it
    earlier = folder / "members/2/training.json"  # of a run that trained what this one loads
    earlier.parent.mkdir()
    earlier.write_bytes(b"")
    again = members.members(run)
    assert [each.reused for each in again] == [True] * 8 and not state.exists() and not earlier.exists()
    assert sorted(path.name for path in (folder / "members").iterdir()) == ["0", "1", "5", "6", "7"]
    assert (members.known(trained), members.known(again)) == (0, 5)  # three are loaded
    assert [each.member for each in again] == teachers
    assert measured.weights == ensemble.normalised([1.0] * 8)


@pytest.mark.parametrize("file", ["0.pt", "runs/small/members/0/model.safetensors"])
def test_a_loaded_member_has_no_record_of_one_that_was_trained_before(file: str, tmp_path: Path) -> None:
    """Such a record would have the export, `diff` and `report --push` tell of another network."""
    place = tmp_path / "runs/small/members/0"
    place.mkdir(parents=True)
    for name in ("training.json", "model.safetensors"):
        (place / name).write_text("of a trained member")
    config = loaded(tmp_path, ensemble={"model": {"factory": "models:mlp"}, "checkpoints": [file]})
    run: Any = SimpleNamespace(
        config=config, plan=SimpleNamespace(teachers=SimpleNamespace(size=1)), events=MagicMock()
    )
    (member,) = members.members(run)
    assert member.member.weights == str(tmp_path / file)
    assert [path.name for path in place.glob("*")] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["boosted", "regressor"])
def test_a_student_is_fitted_found_again_and_compared(tmp_path: Path, name: str) -> None:
    ensemble_of_one = {"model": {"factory": "models:mlp"}, "checkpoints": ["0.pt"]}
    of_all_kinds(tmp_path)  # whose files are there
    run = begun(tmp_path, student=student(tmp_path, name), ensemble=ensemble_of_one)
    (member,) = members.members(run)
    with torch.no_grad():
        logits = teacher.load(member.member)(torch.from_numpy(np.asarray(run.dataset.transfer.x[:]))).logits
    soft = torch.softmax(logits / 2.0, -1).numpy()
    layout, parts = makers.stored(tmp_path / "store", soft, rows=128)
    store = Store(str(tmp_path / "store"), layout, parts, temperature=2.0)
    spec = run.config.student
    baseline = training.train_student(run, StudentJob("baseline", spec.model, spec.recipe, 3))
    targets: dict[str, Any] = {"store": store, "store_key": KEY, "store_content": lambda: "b"}
    job = StudentJob("student", spec.model, spec.recipe, 3, run.config.distillation, **targets)
    fitted = training.train_student(run, job)
    for each in (baseline, fitted):
        assert each.history[0].validation_accuracy > 0.6 and not each.reused
        assert (tmp_path / "runs/small" / each.member.name / "model.skops").is_file()
    assert training.train_student(run, job).reused
    measured = evaluation.measure_ensemble(run, [member.member])
    compared = evaluation.compare_systems(run, [member.member], measured, baseline.member, fitted.member)
    figures = {system.role: system for system in compared.systems}
    assert [(each.of, each.over) for each in compared.estimates.differences] == [
        ("ensemble", "baseline"), ("student", "baseline"), ("student", "ensemble")
    ]  # fmt: skip
    assert figures["student"].test.accuracy > 0.6 and figures["student"].parameters > 100
    agree = {role: _agreement(run, each.member, soft) for role, each in (("base", baseline), ("soft", fitted))}
    assert agree["soft"] < agree["base"]  # it learned from the teacher


def _agreement(run: Context, member: Any, soft: Any) -> float:
    """Cross entropy of a system's answers with the teacher's, on the transfer set."""
    found = metrics.log_probabilities(teacher.load(member), run.dataset.transfer.x, metrics.Inference("float32"))
    sharp = soft**2 / (soft**2).sum(axis=1, keepdims=True)  # at T = 1
    return float(-(sharp * found).sum(axis=1).mean())


def test_what_another_kind_showed_is_taken_away(tmp_path: Path) -> None:
    run = begun(tmp_path, student=student(tmp_path, "boosted"))
    place = tmp_path / "runs" / "small" / "baseline"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"of a network")
    (place / "notes.txt").write_text("the user's own")
    spec = run.config.student
    training.train_student(run, StudentJob("baseline", spec.model, spec.recipe, 3))
    assert {path.name for path in place.iterdir()} == {"model.skops", "training.json", "notes.txt"}


def test_checkpoints_are_removed_once_a_network_is_complete(tmp_path: Path) -> None:
    """Its own alone, also those of a run that was killed before: another recipe resumes from its own."""
    run = begun(tmp_path, student=student(tmp_path, "boosted"))
    folder, spec = RunFolder(run.config.folder), run.config.student
    job = StudentJob("baseline", spec.model, spec.recipe, 3)
    own, other = (
        Path(folder.checkpoints("baseline", digest)) for digest in (training._of_student(run, job).digest, "0" * 16)
    )
    for reused in (False, True):
        for place in (own, other):
            (place / "checkpoint_1").mkdir(parents=True, exist_ok=True)
        assert training.train_student(run, job).reused == reused
        assert not own.exists() and other.exists()


def test_an_estimator_follows_from_the_number_of_classes() -> None:
    """Its answers have a column for each class, also for one that no label names yet."""
    found = {}
    for kind in (SklearnModel(kind="sklearn", factory="mine:forest"), ModelSpec(factory="mine:net")):
        for classes in (2, 3):
            dataset = SimpleNamespace(classes=classes, train=SimpleNamespace(x=np.zeros((4, 2))))
            run: Any = SimpleNamespace(dataset=dataset)
            found[kind.learner, classes] = training._of_kind(run, kind)
    assert found["estimator", 2] != found["estimator", 3] and found["network", 2] == found["network", 3] == {}


def test_networks_of_texts_have_keys_of_their_own() -> None:
    """Earlier versions grouped their batches by the tokens of the first model of the run."""
    rows = texts.of_strings(["river", "goal"])
    x = {
        "dense": np.zeros((2, 2)),
        "ragged": Columns({"tokens": rows}),
        "texts": Columns({"text": rows}),
        "dropped": Columns({"text": rows.lengths_only()}),  # all models have their tokens
    }
    runs: dict[str, Any] = {k: SimpleNamespace(dataset=SimpleNamespace(train=SimpleNamespace(x=x[k]))) for k in x}
    found = {name: training._of_kind(run, ModelSpec(factory="mine:net")) for name, run in runs.items()}
    assert found["dense"] == found["ragged"] == {} != found["texts"] == found["dropped"]


@pytest.mark.parametrize(
    ("where", "teachers", "student", "expected"),
    [("actor", "cuda", "cpu", "bfloat16"), ("worker", "cpu", "cuda", "bfloat16"), ("worker", "cuda", "cpu", "auto")],
)
def test_a_member_beside_the_student_has_the_precision_of_the_run(
    where: str, teachers: str, student: str, expected: str
) -> None:
    """That of the device where it computes, and not of the GPU that its process happens to get."""
    loss = DistillationSpec.model_validate({"objective": [{"term": "hidden_mse"}]})
    alone = SimpleNamespace(alone=SimpleNamespace(device=student))
    run: Any = SimpleNamespace(
        config=SimpleNamespace(ensemble=SimpleNamespace(precision="auto")),
        machines=Machines((Node(1, 1),), cuda=True, bfloat16=True),
        plan=SimpleNamespace(hidden=where, teachers=SimpleNamespace(device=teachers), student=alone),
    )
    found = beside.asked_of(run, loss, [teacher.Member("member-0", ModelSpec(factory="mine:net"), "")])
    assert found is not None and found.precision == expected
    assert beside.asked_of(run, DistillationSpec(), []) is None
