"""Whole runs by an objective of one's own: terms, schedules of weights and of T, and what of it is reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from orchestrator.reporting.report import Report
from tests.makers import write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

OWN = """
import torch
from workers.losses import Term
from workers.signals import Signal


class Brier(Term):
    needs = frozenset({Signal.PROBABILITIES})

    def __call__(self, outputs, batch):
        apart = torch.softmax(outputs.logits, -1) - batch.soft.events(outputs.logits.dtype)
        return apart.square().sum(), batch.rows


class Late:
    def __call__(self, done):
        return done ** 2
"""
FALLING = {"from": 4.0, "to": 1.0, "schedule": "cosine"}


def go(folder: Path, **changes: Any) -> Report:
    return run(RunConfig.load(str(write_config(folder, **changes))))


def weights(folder: Path) -> torch.Tensor:
    found = safetensors.torch.load_file(folder / "runs/small/student/model.safetensors")
    return torch.cat([value.flatten() for value in found.values()])


def history(folder: Path) -> list[dict[str, Any]]:
    record = json.loads((folder / "runs/small/student/training.json").read_text())
    found: list[dict[str, Any]] = record["facts"]["history"]
    return found


def reused(report: Report) -> set[str]:
    return {stage.name for stage in report.stages if stage.reused}


def test_a_term_and_a_schedule_of_ones_own(tmp_path: Path) -> None:
    objective = [
        {"term": "soft", "weight": {"from": 1.0, "to": 0.0, "schedule": "own:Late"}},
        {"term": "own:Brier", "weight": 0.5},
        {"term": "hard", "weight": 0.3},
    ]
    path = write_config(tmp_path, distillation={"temperature": 2.0, "objective": objective})
    (tmp_path / "own.py").write_text(OWN)
    assert main(["run", str(path)]) == 0
    assert [list(epoch["terms"]) for epoch in history(tmp_path)] == [["soft", "own:Brier", "hard"]] * 2
    first = weights(tmp_path)
    (tmp_path / "own.py").write_text(OWN.replace("apart.square().sum()", "3 * apart.square().sum()"))
    changed = run(RunConfig.load(str(path)))
    assert {"members", "baseline", "soft targets"} <= reused(changed) and "student" not in reused(changed)
    assert not torch.equal(weights(tmp_path), first)


def test_a_schedule_of_t_learns_from_the_members_logits(tmp_path: Path) -> None:
    made = go(tmp_path, distillation__temperature=FALLING)
    assert made.soft_targets.temperature == 4.0 and made.status == "complete"
    kept = sorted((tmp_path / "runs/small/logits").glob("*/part-*.parquet"))
    assert len(kept) == 3
    events = (tmp_path / "runs/small/events.jsonl").read_text()
    assert "a schedule keeps each member's logits" in events
    first = weights(tmp_path)
    assert {"soft targets", "student"} <= reused(go(tmp_path, distillation__temperature=FALLING))
    epochs = history(tmp_path)
    assert [set(epoch["terms"]) for epoch in epochs] == [{"soft", "hard"}] * 2
    assert 0 < epochs[0]["waited_s"] <= epochs[0]["seconds"]
    assert epochs[1]["waited_s"] == 0, "the parts are in memory after the first epoch"

    kept[0].unlink()  # of one member: computed again, and with it the part
    (tmp_path / "runs/small/student/training.json").unlink()
    for record in (tmp_path / "runs/small/trained").glob("*/training.json"):
        if "terms" in record.read_text() and '"soft"' in record.read_text():
            record.unlink()
    again = go(tmp_path, distillation__temperature=FALLING)
    assert "soft targets" not in reused(again) and "student" not in reused(again)
    assert len(list((tmp_path / "runs/small/logits").glob("*/part-*.parquet"))) == 3
    assert torch.equal(weights(tmp_path), first)

    other = go(tmp_path, distillation__temperature={**FALLING, "from": 3.0})
    assert {"members", "baseline"} <= reused(other) and not torch.equal(weights(tmp_path), first)


def test_two_workers_take_the_steps_of_one(tmp_path: Path) -> None:
    changes = {
        "distillation": {
            "temperature": FALLING,
            "objective": [
                {"term": "reverse_kl", "weight": {"from": 0.5, "to": 1.0}},
                {"term": "jensen_shannon"},
                {"term": "logits_mse", "weight": 0.1},
                {"term": "hard", "weight": 0.3},
            ],
        }
    }
    one, two = tmp_path / "one", tmp_path / "two"
    go(one, **changes)
    go(two, **changes, student__num_workers=2)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-5, rtol=1e-4)
    for alone, shared in zip(history(one), history(two), strict=True):
        assert shared["terms"] == pytest.approx(alone["terms"], rel=1e-4)
