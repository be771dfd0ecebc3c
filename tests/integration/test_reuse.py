"""Runs in one storage: what one has computed no other computes, and each goes on without the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from orchestrator.reporting.report import Report
from tests.makers import write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]


def go(folder: Path, name: str, *, fresh: bool = False, **changes: Any) -> Report:
    changes = {"distillation__keep": "members", **changes}
    return run(RunConfig.load(str(write_config(folder, name=name, **changes))), fresh=fresh)


def reused(report: Report) -> set[str]:
    return {stage.name for stage in report.stages if stage.reused}


def notes(folder: Path, name: str) -> list[str]:
    lines = (folder / "runs" / name / "events.jsonl").read_text().splitlines()
    return [event["text"] for event in map(json.loads, lines) if event["event"] == "note"]


def parts(folder: Path) -> dict[str, bytes]:
    """The soft targets of a run, which has made them once."""
    return {path.name: path.read_bytes() for path in folder.glob("soft_targets/*/part-*.parquet")}


def test_a_run_computes_what_is_new_and_needs_no_other_afterwards(tmp_path: Path) -> None:
    go(tmp_path, "first", ensemble__size=2)
    second = go(tmp_path, "second", distillation__temperature=4.0, student__model__kwargs={"hidden": 7})
    assert [note for note in notes(tmp_path, "second") if note.startswith("reused")] == [
        "reused from run 'first': 2 of 3 members",
        "reused from run 'first': 2 of 3 predictions of the test split",
        "reused from run 'first': 2 of 3 predictions of the validation split",
        "reused from run 'first': 2 of 3 members' logits",
    ]
    copied = [path.stat().st_nlink > 1 for path in (tmp_path / "runs/second/logits").glob("*/part-*")]
    assert sorted(copied) == [False, True, True], "the logits of one member are new"
    apart = go(tmp_path / "apart", "second", distillation__temperature=4.0, student__model__kwargs={"hidden": 7})
    assert parts(tmp_path / "runs/second") == parts(tmp_path / "apart/runs/second") != {}
    assert [system.test for system in second.systems] == [system.test for system in apart.systems]

    shutil.rmtree(tmp_path / "runs/first")  # by its user
    third = go(tmp_path, "third", distillation__temperature=4.0)
    assert reused(third) == {"members", "predictions", "soft targets"}
    same = go(tmp_path, "same", distillation__temperature=4.0)
    assert reused(same) == {"members", "predictions", "baseline", "soft targets", "student", "evaluation"}
    assert any(note == "reused from run 'third': the student" for note in notes(tmp_path, "same"))
    for name in ("members/2/model.safetensors", "student/model.safetensors", "baseline/model.safetensors"):
        assert (tmp_path / "runs/same" / name).exists()
    assert parts(tmp_path / "runs/same") == parts(tmp_path / "runs/third")

    anew = go(tmp_path, "same", fresh=True, distillation__temperature=4.0)
    assert not reused(anew) and reused(go(tmp_path, "third", distillation__temperature=4.0)) == reused(same)


def test_without_kept_logits_all_members_compute_and_the_user_is_told(tmp_path: Path) -> None:
    go(tmp_path, "first", distillation__keep="mean")
    go(tmp_path, "second", distillation__keep="mean", distillation__temperature=3.0)
    (note,) = [note for note in notes(tmp_path, "second") if "all members compute" in note]
    assert note.startswith("all members compute the soft targets: this storage has no logits of theirs")
    assert not any("all members compute" in note for note in notes(tmp_path, "first"))
    go(tmp_path, "third", distillation__temperature=4.0)
    go(tmp_path, "fourth", distillation__keep="mean", distillation__temperature=5.0)
    assert "reused from run 'third': 3 of 3 members' logits" in notes(tmp_path, "fourth")
    assert not (tmp_path / "runs/fourth/logits").exists()


def test_logits_that_are_asked_for_later_are_computed_beside_the_same_soft_targets(tmp_path: Path) -> None:
    go(tmp_path, "first", distillation__keep="mean")
    before = parts(tmp_path / "runs/first")
    again = go(tmp_path, "first")
    assert reused(again) == {"members", "predictions", "baseline", "student", "evaluation"}
    assert any("are computed again, for the members' logits" in note for note in notes(tmp_path, "first"))
    assert parts(tmp_path / "runs/first") == before != {}
    assert len(list((tmp_path / "runs/first/logits").iterdir())) == 3
    assert reused(go(tmp_path, "first")) == {*reused(again), "soft targets"}
    third = go(tmp_path, "third", distillation__temperature=7.0)
    assert "reused from run 'first': 3 of 3 members' logits" in notes(tmp_path, "third") and third.curve


def test_a_store_of_another_format_is_refused_or_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    go(tmp_path, "first")
    (manifest,) = (tmp_path / "runs/first/soft_targets").glob("*/manifest.json")
    before, written = parts(tmp_path / "runs/first"), json.loads(manifest.read_text())
    manifest.write_text(json.dumps(written | {"format": 3}))
    assert main(["run", str(tmp_path / "config.yaml")]) == 2
    assert "manifest.json' was made by a newer Stillhouse: format 3, this one reads 2" in capsys.readouterr().err
    manifest.write_text(json.dumps(written | {"format": 1}))
    assert "soft targets" not in reused(go(tmp_path, "first"))
    assert "have format 1, and this version of Stillhouse reads 2" in caplog.text
    assert parts(tmp_path / "runs/first") == before and json.loads(manifest.read_text())["format"] == 2
