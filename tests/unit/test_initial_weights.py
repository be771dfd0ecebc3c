"""`ensemble.initial`: members that begin from the weights of others, in an order, under keys that name the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import safetensors.torch
import torch

from orchestrator import prospects
from orchestrator.cluster import tasks as cluster_tasks
from orchestrator.cluster.resources import Placement
from orchestrator.cluster.tasks import Task
from orchestrator.config import inputs
from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_descriptions
from orchestrator.plan.outlook import makespan, outlook, trained_after
from orchestrator.plan.summary import duration
from orchestrator.stages import members, preflight, ray_tasks, training
from orchestrator.stages.context import Context
from tests import makers
from tests.unit import test_fitters, test_outlook
from tests.unit.test_fitters import without_ray as without_ray
from workers.errors import RequestError
from workers.models import checkpoints, torch_module
from workers.specs.models import ModelSpec

NET = {"factory": "models:mlp", "kwargs": {"hidden": 24}}
OTHER = {"factory": "models:mlp", "kwargs": {"hidden": 7}}
TRAINING = {"epochs": 2, "batch_size": 64, "learning_rate": 5.0e-3, "schedule": "cosine"}
STILL = {"epochs": 1, "batch_size": 64, "learning_rate": 1.0e-12}
SPECIALISTS = [
    {"model": NET, "training": TRAINING},
    {"model": NET, "training": STILL, "size": 2, "initial": 0, "sample": {"classes": [1]}},
    {"model": NET, "training": TRAINING, "size": 2, "initial": "previous"},
]


def configured(folder: Path, *groups: dict[str, Any], **changes: Any) -> RunConfig:
    if groups:
        changes["ensemble"] = {"members": list(groups), "resources_per_member": {"num_cpus": 0.5}}
    return RunConfig.from_mapping(makers.settings(folder, **changes), str(folder))


def weights(of: Any) -> torch.Tensor:
    found = safetensors.torch.load_file(of.member.weights)
    return torch.cat([value.flatten() for value in found.values()])


def keys(run: Context) -> list[str]:
    ensemble = run.config.ensemble
    groups = dict(enumerate(ensemble.of_each(run.plan.teachers.size)))
    trained = {k: group for k, group in groups.items() if group.training is not None}
    return [each.key.digest for each in training._planned(run, trained).values()]


def test_members_know_which_is_before_them(tmp_path: Path) -> None:
    ensemble = configured(tmp_path, *SPECIALISTS).ensemble
    assert ensemble.begins(5) == {1: 0, 2: 0, 4: 3} and ensemble.most_at_once(5) == 3
    chain = configured(tmp_path, ensemble__initial="previous", ensemble__size=None).ensemble
    assert chain.begins(4) == {1: 0, 2: 1, 3: 2} and chain.most_at_once(4) == 1
    plain = configured(tmp_path).ensemble
    assert plain.begins(3) == {} and plain.most_at_once(3) == 3
    file = configured(tmp_path, ensemble__initial="a.safetensors")
    assert file.ensemble.groups[0].initial_file == str(tmp_path / "a.safetensors") and file.ensemble.begins(3) == {}
    assert chain.groups[0].initial_file is None and str(tmp_path / "a.safetensors") in inputs.every(file)


def test_a_chain_begins_where_the_member_before_ended(tmp_path: Path) -> None:
    run = test_fitters.begun(tmp_path, ensemble__initial="previous", ensemble__training=TRAINING)
    first, second, third = members.members(run)
    still = {"ensemble__initial": "previous", "ensemble__training": STILL, "name": "still"}
    alike = [weights(each) for each in members.members(test_fitters.begun(tmp_path, **still))]
    assert all(torch.allclose(each, alike[0], atol=1e-9) for each in alike)  # since none of them moves
    assert not torch.equal(weights(second), weights(first)) and not torch.equal(weights(third), weights(second))
    assert first.member.weights == members.members(
        test_fitters.begun(tmp_path, ensemble__training=TRAINING, name="plain")
    )[0].member.weights.replace("runs/plain", "runs/small")  # which begins from nothing, and so is the same
    assert [each.reused for each in members.members(run)] == [True] * 3


def test_specialists_begin_from_the_generalist_and_others_do_not(tmp_path: Path) -> None:
    run = test_fitters.begun(tmp_path, ensemble={"members": SPECIALISTS})
    found = [weights(each) for each in members.members(run)]
    assert torch.allclose(found[1], found[0], atol=1e-9) and torch.allclose(found[2], found[0], atol=1e-9)
    assert not torch.allclose(found[3], found[0], atol=1e-2)


def test_tasks_wait_for_the_member_that_they_begin_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def inline(pending: Sequence[Task], *_: Any, **__: Any) -> Iterator[tuple[Task, Any]]:
        seen.append({task.name: task.after for task in pending})
        yield from test_fitters.inline(pending)

    monkeypatch.setattr(ray_tasks, "completed", inline)
    run = test_fitters.begun(tmp_path, ensemble={"members": SPECIALISTS})
    whole = {str(path.relative_to(tmp_path)): path.read_bytes() for path in _trained(run)}
    begins = {"member-1": "member-0", "member-2": "member-0", "member-4": "member-3"}
    assert seen.pop() == {f"member-{k}": begins.get(f"member-{k}", "") for k in range(5)}
    for path in list(whole)[3:]:  # as of a run that was killed before them
        (tmp_path / path).unlink()
    again = {str(path.relative_to(tmp_path)): path.read_bytes() for path in _trained(run)}
    assert seen.pop() == {"member-3": "", "member-4": "member-3"} and again == whole


def _trained(run: Context) -> list[Path]:
    return [Path(each.member.weights) for each in members.members(run)]


def test_a_key_has_the_key_of_what_is_before_and_is_else_as_it_was(tmp_path: Path) -> None:
    def keys_of(*groups: dict[str, Any], **changes: Any) -> list[str]:
        ensemble = {"ensemble": {"members": list(groups)}} if groups else {}
        return keys(test_fitters.begun(tmp_path, **ensemble, **changes))

    plain, chain = keys_of(), keys_of(ensemble__initial="previous")
    assert plain[0] == chain[0] and not {*plain[1:]} & {*chain[1:]} and len({*plain, *chain}) == 5
    assert keys_of(ensemble__sample="all") == plain and not {*keys_of(ensemble__sample="bootstrap")} & {*plain}
    special, other = SPECIALISTS[1], {**SPECIALISTS[1], "sample": {"classes": [2]}}
    one, two = keys_of(SPECIALISTS[0], special), keys_of(SPECIALISTS[0], other)
    assert one[0] == two[0] and not {*one[1:]} & {*two[1:]}
    longer = {**SPECIALISTS[0], "training": {**TRAINING, "epochs": 3}}
    assert not {*keys_of(longer, special)} & {*one}  # another generalist makes other specialists

    def of_file(seed: int) -> list[str]:
        spec = ModelSpec(factory="models:mlp", kwargs={"hidden": 24}, folder=str(tmp_path))
        checkpoints.save(torch_module.build(spec, seed).state_dict(), str(tmp_path / "a.safetensors"))
        return keys_of(ensemble__initial="a.safetensors")

    first = of_file(0)
    assert of_file(1) != first == of_file(0)
    given = {"model": NET, "checkpoints": ["a.safetensors"]}
    assert keys_of(given, {"model": NET, "training": STILL, "initial": 0}) != keys_of(
        given, {"model": NET, "training": STILL}
    )


def test_a_task_starts_after_the_one_whose_result_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which tasks start and end on a Ray that ends the newest first."""
    log: list[str] = []
    monkeypatch.setattr(Task, "start", lambda task: log.append(f"start {task.name}") or task.name)
    ray = SimpleNamespace(
        wait=lambda refs, **_: ([refs[-1]], refs[:-1]), get=lambda ref: f"result of {ref}", cancel=MagicMock()
    )
    monkeypatch.setattr(cluster_tasks, "ray", ray)
    monkeypatch.setattr(cluster_tasks, "is_any_alive", lambda places: True)
    placement = Placement(1, 1, 1.0, 0.0, {})
    after = {"a": "", "b": "a", "c": "b", "d": "", "e": "of another run"}
    tasks = [Task(name, None, (), placement, after=before) for name, before in after.items()]
    for task, result in cluster_tasks.completed(tasks, MagicMock(), MagicMock()):
        assert result == f"result of {task.name}"
        log.append(f"taken {task.name}")
    assert log == [
        "start a", "start d", "start e", "taken e", "taken d", "taken a", "start b", "taken b", "start c", "taken c",
    ]  # fmt: skip


def test_a_plan_adds_what_trains_one_after_the_other(tmp_path: Path) -> None:
    assert makespan([1, 1, 1, 1], 2) == 2 and makespan([1, 1, 1, 1], 4, {1: 0, 2: 1, 3: 2}) == 4
    assert makespan([3, 1, 1, 1, 1], 3, {1: 0, 2: 0, 4: 3}) == 4  # the others train beside the first
    ensemble = configured(tmp_path, *SPECIALISTS).ensemble
    assert trained_after(ensemble, {0: 4.0, 1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}, 4) == 5.0
    assert trained_after(ensemble, {1: 1.0, 2: 1.0}, 4) == 1.0  # the first is loaded
    chain, plain = (
        next(stage for stage in outlook(test_outlook.case(tmp_path, **changes), test_outlook.RATES).stages
             if stage.name == "members")
        for changes in ({"ensemble__initial": "previous"}, {})
    )  # fmt: skip
    start = test_outlook.RATES.members[0].start_s  # type: ignore[union-attr]
    assert (chain.seconds - start) == pytest.approx((plain.seconds - start) * 5 / 3)  # 5 members, 2 at a time
    assert "1 at a time" in chain.where and "2 at a time" in plain.where
    assert chain.core_hours == plain.core_hours
    assert duration(chain.seconds)


def test_mlflow_has_what_a_member_learns_from(tmp_path: Path) -> None:
    config = configured(tmp_path, *SPECIALISTS)
    own = [mlflow_descriptions.params_of("member", config, f"member-{k}") for k in (0, 1, 3)]
    assert own[1]["initial"] == "0" and own[1]["sample.share"] == "0.5" and own[2]["initial"] == "previous"
    assert "initial" not in own[0] and "sample" not in own[0]


WRONG: dict[str, tuple[Any, str]] = {
    "a later member": (
        [{"model": NET, "training": STILL, "initial": 1}, {"model": NET, "training": STILL}],
        r"`members\.0\.initial` is 1, .* earlier group; expected `previous` or a file, since none is earlier",
    ),
    "itself": (
        [SPECIALISTS[0], {"model": NET, "training": STILL, "size": 2, "initial": 2}],
        r"`members\.1\.initial` is 2, and begins from a member of an earlier group; expected a number from 0 to 0",
    ),
    "none of that number": ([SPECIALISTS[0], {"model": NET, "training": STILL, "initial": 7}], "expected a number fr"),
    "members of a file": (
        [{"model": {"kind": "onnx", "path": "a.onnx"}}, {"model": NET, "training": STILL, "initial": 0}],
        r"member 0 is '.*a\.onnx' of kind 'onnx'; expected a network",
    ),
    "loaded members": (
        [{"model": NET, "checkpoints": ["a.pt"], "initial": "previous"}],
        r"members\.0: `initial` is of members that are trained, and these are loaded",
    ),
    "an estimator": (
        [{"model": {"kind": "sklearn", "factory": "trees:forest"}, "training": {}, "initial": "previous"}],
        "an estimator is fitted once, from nothing; leave it out",
    ),
    "layers of a teacher": (
        [{"model": NET, "training": STILL, "initial": "teacher_layers"}],
        "`initial` is teacher_layers, which is of a student; expected `previous`, the number of an earlier member, or",
    ),
    "no number": ([{"model": NET, "training": STILL, "initial": True}], r"initial: found true; expected a number"),
    "negative": ([{"model": NET, "training": STILL, "initial": -1}], r"initial: found -1; expected"),
    "a rule of both": ({"stop_when_flat": 0.1, "initial": "previous"}, "`stop_when_flat` foresees the next of members"),
    "a number in the short form": ({"initial": 0}, "`initial` is 0, .* expected `previous` or a file"),
    "two forms": (
        {"members": SPECIALISTS, "sample": "bootstrap"}, "`members` takes the place of `sample`"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_beginnings_are_refused_by_their_key(tmp_path: Path, case: str) -> None:
    found, words = WRONG[case]
    short = {"model": NET, "training": STILL, "size": 3}
    ensemble = {"members": found} if isinstance(found, list) else found if "members" in found else {**short, **found}
    with pytest.raises(RequestError, match=words):
        configured(tmp_path, ensemble=ensemble)


def test_weights_of_another_architecture_are_refused_before_the_run(tmp_path: Path) -> None:
    other = {"model": OTHER, "training": STILL, "initial": 0}
    with pytest.raises(
        RequestError,
        match=r"members\.1 model 'models:mlp': `initial` names a member of another architecture: .* '0\.weight' is "
        r"\[24, 8\], the model's is \[7, 8\]",
    ):
        preflight.check(configured(tmp_path, SPECIALISTS[0], other))
    spec = ModelSpec(factory="models:mlp", kwargs={"hidden": 24}, folder=str(tmp_path))
    checkpoints.save(torch_module.build(spec).state_dict(), str(tmp_path / "a.safetensors"))
    given = {"model": NET, "checkpoints": ["a.safetensors"]}
    for groups in ([given, other], [{**other, "initial": "a.safetensors"}]):
        with pytest.raises(RequestError, match=r"a\.safetensors' does not fit the model: '0\.weight' is \[24, 8\]"):
            preflight.check(configured(tmp_path, *groups))
    with pytest.raises(RequestError, match=r"gone\.pt': no such file"):
        preflight.check(configured(tmp_path, {**SPECIALISTS[0], "initial": "gone.pt"}))
    assert preflight.check(configured(tmp_path, *SPECIALISTS)).classes == 3


def test_the_worth_of_more_members_of_a_chain_is_not_foreseen(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"ensemble\.initial: previous\. `worth` foresees members that are alike"):
        prospects.prospects(configured(tmp_path, ensemble__initial="previous"), prospects.Asked(members=10))


def test_worth_trains_the_members_that_the_run_reuses(tmp_path: Path) -> None:
    config = configured(tmp_path, ensemble__sample="bootstrap", ensemble__initial="a.safetensors")
    member, singles = prospects._groups(config, prospects.Asked(members=10), 3)
    group = config.ensemble.groups[0]
    assert member == group.model_copy(update={"size": 3}) and singles[prospects.TRAINING].sample == "bootstrap"
