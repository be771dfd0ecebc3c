"""Whole runs with a generalist and specialists, which the run finds or is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator import RunConfig, run
from orchestrator.reporting import sections
from orchestrator.reporting.report import Report
from orchestrator.stages import trained
from tests.makers import blobs, settings
from workers import specialists
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models.special import correction
from workers.specs.models import ModelSpec, SpecialClasses
from workers.targets.soft_targets import manifest_at, read_part

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

K = 7
GENERAL = {"epochs": 6, "batch_size": 64, "learning_rate": 5.0e-3}
SPECIAL = {"epochs": 2, "batch_size": 64, "learning_rate": 2.0e-3}


def go(folder: Path, special: Any, generalists: int = 1, **changes: Any) -> Report:
    model = {"factory": "models:mlp", "kwargs": {"classes": K, "hidden": 24}}
    student = {"factory": "models:mlp", "kwargs": {"classes": K, "hidden": 8}}
    members = [
        {"model": model, "training": GENERAL, "size": generalists},
        {"model": model, "training": SPECIAL, "initial": 0, **special},
    ]
    ensemble = {"members": members, "resources_per_member": {"num_cpus": 0.5}}
    values = settings(folder, ensemble=ensemble, student__model=student, **changes)
    for name, n, seed in (("train", 900, 1), ("valid", 400, 2), ("test", 500, 3)):
        x, y = blobs(n, seed, classes=K)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    return run(RunConfig.from_mapping(values, str(folder)))


def model_of(folder: Path, k: int) -> dict[str, str]:
    record = trained.record_in(str(folder / f"runs/small/members/{k}"))
    assert record is not None
    return record.what


def stored(folder: Path) -> dict[int, np.ndarray[Any, Any]]:
    (place,) = folder.glob("runs/small/soft_targets/*")
    manifest = manifest_at(str(place))
    assert manifest is not None
    found: dict[int, np.ndarray[Any, Any]] = {}
    for part in manifest.parts:
        rows = read_part(str(place), part)
        found |= dict(zip(rows.ids.tolist(), rows.targets.columns[0].numpy(), strict=True))
    return found


def test_soft_targets_are_the_answer_of_generalists_and_specialists(tmp_path: Path) -> None:
    sets = [[0, 1, 2], [2, 3, 4]]
    report = go(tmp_path, {"specialists": sets}, generalists=2)
    assert [member.special for member in report.members] == [[], [], ["0", "1", "2"], ["2", "3", "4"]]
    what = model_of(tmp_path, 2)
    assert json.loads(what["model.special.classes"]) == sets[0] == json.loads(what["sample.classes"])
    y = blobs(900, 1, classes=K)[1]
    added = correction(0.5, float(np.isin(y, sets[0]).mean()))
    assert float(what["model.special.correction"]) == pytest.approx(added)
    special = [None, None, *(SpecialClasses(classes=tuple(s), correction=added, of=K) for s in sets)]
    special[3] = SpecialClasses(
        classes=tuple(sets[1]), correction=correction(0.5, float(np.isin(y, sets[1]).mean())), of=K
    )
    x = torch.from_numpy(blobs(900, 1, classes=K)[0])
    logits = []
    for k, own in enumerate(special):
        spec = ModelSpec(factory="models:mlp", kwargs={"classes": K, "hidden": 24}, folder=str(tmp_path), special=own)
        member = Member(f"member-{k}", spec, str(tmp_path / f"runs/small/members/{k}/model.safetensors"))
        with torch.no_grad():
            logits.append(teacher.load(member)(x).logits)
    p = torch.softmax(torch.stack(logits).double(), -1)
    q = specialists.answer(p, [(), (), *map(tuple, sets)])
    expected = torch.softmax(q.log() / 2.0, -1).numpy()
    found = stored(tmp_path)
    np.testing.assert_allclose(np.stack([found[n] for n in range(900)]), expected, atol=1e-5)
    assert report.soft_targets.rule == "specialists" and len(report.worth) == 4
    section = sections.specialists(report)
    assert section is not None and "2, 3, 4" in str(section)


def test_groups_are_found_and_found_again(tmp_path: Path) -> None:
    special = {"specialists": "auto", "size": 3}
    first = go(tmp_path, special)
    sets = [[int(name) for name in member.special] for member in first.members[1:]]
    assert sorted(k for own in sets for k in own) == list(range(K)) and min(map(len, sets)) >= 2
    before = stored(tmp_path)
    again = go(tmp_path, special)
    assert {stage.name for stage in again.stages if stage.reused} >= {
        "members",
        "predictions",
        "soft targets",
        "student",
    }
    assert again.systems[0].test == first.systems[0].test
    assert [member.special for member in again.members] == [member.special for member in first.members]
    assert {k: v.tolist() for k, v in before.items()} == {k: v.tolist() for k, v in stored(tmp_path).items()}


def test_a_schedule_of_t_combines_them_at_each_step(tmp_path: Path) -> None:
    falling = {"from": 4.0, "to": 1.0, "schedule": "cosine"}
    report = go(tmp_path, {"specialists": [[0, 1], [5, 6]]}, distillation__temperature=falling)
    assert report.status == "complete" and report.soft_targets.temperature == 4.0
