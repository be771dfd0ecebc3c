"""A teacher dies in the middle of a pass: restarted without a trace, left out on record, or the end of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from orchestrator.cluster import Placement
from orchestrator.config import EnsembleSpec
from orchestrator.teachers import TeacherPool, starter
from tests.makers import MODELS, NUMERICS, blobs
from workers import checkpoints, models
from workers.assembly import Assembly
from workers.data import Dataset, Split
from workers.errors import RunError
from workers.order import Layout
from workers.soft_targets import read_part
from workers.specs import ModelSpec
from workers.teacher import Member

pytestmark = pytest.mark.usefixtures("small_ray")
ROWS = 12 * 1024
LAYOUT = Layout(ROWS, 1024)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    folder = tmp_path_factory.mktemp("members")
    (folder / "models.py").write_text(MODELS)
    spec = ModelSpec(factory="models:mlp", folder=str(folder))
    made = [Member(f"member-{k}", spec, str(folder / f"{k}.safetensors")) for k in range(3)]
    for k, member in enumerate(made):
        checkpoints.save(models.build(spec, seed=k).state_dict(), member.weights)
    return made


@pytest.fixture(scope="module")
def data(small_ray: None) -> ray.ObjectRef[Dataset]:
    split = Split(*blobs(ROWS, 0))
    return ray.put(Dataset(split, split, split, None, 3))


def mean_of(members: Sequence[Member], t: float) -> np.ndarray:
    x = torch.from_numpy(blobs(ROWS, 0)[0])
    answers = []
    for member in members:
        module = models.build(member.model)
        checkpoints.load(module, member.weights)
        answers.append(torch.softmax(module(x).detach() / t, -1))
    return torch.stack(answers).mean(0).numpy()


def collect(
    members: list[Member],
    data: ray.ObjectRef[Dataset],
    folder: Path,
    policy: str,
    kills: Sequence[int],
    near: bool = False,
) -> tuple[np.ndarray, list[tuple[str, list[str]]], list[list[str]]]:
    spec = EnsembleSpec.model_validate(
        {"size": 3, "model": members[0].model.model_dump(), "training": {"epochs": 1}, "on_member_loss": policy}
    )
    heard: list[tuple[str, list[str]]] = []
    found, made_by = np.empty((ROWS, 3), np.float32), []
    placement = Placement(3, 3, 0.5, 0.0)
    pool = TeacherPool(
        members,
        [1.0] * 3,
        starter(data, LAYOUT, NUMERICS, placement, {}),
        spec,
        placement.groups(),
        lambda action, names: heard.append((action, list(names))),
    )
    with pool:
        assembly = Assembly(str(folder), LAYOUT, "arithmetic", "float32", None, NUMERICS)
        for number, part in enumerate(pool.stream(range(LAYOUT.parts), 2.0, assembly, near=near)):
            rows = read_part(str(folder), part)
            found[rows.ids] = rows.targets
            made_by.append(part.members)
            if number in kills:
                ray.kill(pool.seats[1].actor)
    return found, heard, made_by


def test_waiting_restarts_and_changes_no_bit(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    undisturbed, heard, _ = collect(members, data, tmp_path / "undisturbed", "wait", kills=[])
    assert not heard
    np.testing.assert_allclose(undisturbed, mean_of(members, 2.0), atol=1e-6)
    disturbed, heard, made_by = collect(members, data, tmp_path / "disturbed", "wait", kills=[1, 7])
    assert [action for action, _ in heard] == ["restart", "restart"] and heard[0][1] == ["member-1"]
    assert disturbed.tobytes() == undisturbed.tobytes()
    assert all(len(names) == 3 for names in made_by)
    near, heard, _ = collect(members, data, tmp_path / "near", "wait", kills=[2], near=True)
    assert len(heard) == 1 and near.tobytes() == undisturbed.tobytes()


def test_reweighting_goes_on_with_the_others_on_record(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    found, heard, made_by = collect(members, data, tmp_path, "reweight", kills=[1])
    assert heard == [("reweight", ["member-1"])]
    assert made_by[0] == ["member-0", "member-1", "member-2"] and made_by[-1] == ["member-0", "member-2"]
    first, last = LAYOUT.ids(0), LAYOUT.ids(LAYOUT.parts - 1)
    np.testing.assert_allclose(found[first], mean_of(members, 2.0)[first], atol=1e-6)
    np.testing.assert_allclose(found[last], mean_of([members[0], members[2]], 2.0)[last], atol=1e-6)


def test_failing_names_the_member(members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"teacher of member-1 was lost .* `ensemble\.on_member_loss: fail`"):
        collect(members, data, tmp_path, "fail", kills=[1])
