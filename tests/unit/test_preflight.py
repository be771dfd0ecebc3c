"""Checks before a run: what a schedule of T costs and whether that fits, and which member is looked into."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pytest

from orchestrator.config.run_config import RunConfig
from orchestrator.stages import preflight
from tests.makers import write_config
from workers.data import loading, memory
from workers.errors import RequestError

FALLING = {"from": 4.0, "to": 1.0}
NEEDED = 4 * 3 * 600 * 3
"""Bytes of 3 members' logits of 600 examples and 3 classes. Memory holds a whole part, of 8,192 rows."""


class Disk(NamedTuple):
    free: int


def config(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig.load(str(write_config(folder, **{"distillation__temperature": FALLING, **changes})))


def test_the_note_says_what_it_costs(tmp_path: Path) -> None:
    asked = config(tmp_path)
    (note,) = preflight.check_logits(asked, loading.load(asked.data, 0), 3)
    assert "keeps each member's logits: 21.1 KiB in storage (3 members x 600 examples x 3 classes x 4 bytes; " in note
    assert f"free on the disk of '{tmp_path}/runs'" in note and "576.0 KiB of memory in each worker" in note
    assert "The student's training begins once all are stored." in note
    plain = config(tmp_path, distillation__temperature=4.0)
    assert preflight.check_logits(plain, loading.load(plain.data, 0), 3) == ()


def test_kept_logits_include_those_of_unlabelled_examples(tmp_path: Path) -> None:
    asked = config(tmp_path, data__unlabeled="more.npz")
    (note,) = preflight.check_logits(asked, loading.load(asked.data, 0), 5)
    assert "5 members x 900 examples x 3 classes" in note


def test_a_full_disk_is_refused_but_for_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(tmp_path)
    dataset = loading.load(asked.data, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(NEEDED - 1))
    with pytest.raises(RequestError, match=r"21\.1 KiB \(3 members .*\), and '.*/runs' has 21\.1 KiB free on its disk"):
        preflight.check_logits(asked, dataset, 3)
    kept = Path(asked.folder, "logits", "0123", "part-000000-0123456789abcdef.parquet")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x")  # of an earlier attempt
    assert preflight.check_logits(asked, dataset, 3)


def test_a_memory_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(tmp_path, student__num_workers=2)
    monkeypatch.setattr(memory, "available", lambda: 1_000_000)
    with pytest.raises(RequestError, match=r"student's workers holds logits of 576\.0 KiB .*and 2 of them have"):
        preflight.check_logits(asked, loading.load(asked.data, 0), 3)


def test_of_an_object_store_the_room_is_not_known(tmp_path: Path) -> None:
    asked = config(tmp_path, storage="memory://runs")
    (note,) = preflight.check_logits(asked, loading.load(asked.data, 0), 3)
    assert "not known for this storage" in note


def test_preflight_takes_a_step_with_the_objective(tmp_path: Path) -> None:
    listed = [{"term": name, "weight": 0.5} for name in ("reverse_kl", "jensen_shannon", "logits_mse", "hard")]
    objective = {"distillation": {"temperature": FALLING, "objective": listed}}
    notes = preflight.check(RunConfig.load(str(write_config(tmp_path, **objective)))).notes
    assert any("a schedule keeps each member's logits" in note for note in notes)


def test_how_many_members_there_are_may_only_be_known_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(tmp_path, ensemble__size="auto")
    dataset = loading.load(asked.data, 0)
    assert any("7 members" in note for note in preflight.check_placed(asked, dataset, 7).notes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0))
    with pytest.raises(RequestError, match="free on its disk"):
        preflight.check_placed(asked, dataset, 7)


def test_a_member_to_look_into_has_to_be_among_those_that_the_cluster_holds(tmp_path: Path) -> None:
    hidden = {"hidden": {"member": 7}, "objective": [{"term": "soft"}, {"term": "hidden_mse"}]}
    asked = config(tmp_path, ensemble__size="auto", distillation=hidden)
    dataset = loading.load(asked.data, 0)
    assert preflight.check_placed(asked, dataset, 8) is not None
    with pytest.raises(RequestError, match=r"hidden\.member: 7, and the members are numbered from 0 to 1"):
        preflight.check_placed(asked, dataset, 2)


def test_a_plan_from_shapes_alone_refuses_a_member_without_layers(tmp_path: Path) -> None:
    looks: dict[str, Any] = {"objective": [{"term": "soft"}, {"term": "hidden_mse"}]}
    with pytest.raises(RequestError, match=r"hidden\.member: 3, and the members are numbered from 0 to 2"):
        preflight.beside_bytes(config(tmp_path, distillation=looks | {"hidden": {"member": 3}}))
    estimators = {"ensemble__model": {"kind": "sklearn", "factory": "models:tree"}, "ensemble__training": {}}
    with pytest.raises(RequestError, match=r"hidden\.member: 0, .*kind 'sklearn', has no layers to look into"):
        preflight.beside_bytes(config(tmp_path, distillation=looks, **estimators))
    assert preflight.beside_bytes(config(tmp_path)) == 0


def test_predictions_that_are_too_large_are_refused_before_labels_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of masked texts are drawn."""
    asked = config(tmp_path, evaluation__corrected_classes=[0])
    dataset = loading.load(asked.data, 0)
    monkeypatch.setattr(preflight, "KEPT_BYTES", 0)
    monkeypatch.setattr("workers.evaluation.bias.check", MagicMock(side_effect=AssertionError))
    with pytest.raises(RequestError, match="predictions of the train split take"):
        preflight._check_bias(asked, dataset)
