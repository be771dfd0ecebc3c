"""A run with repetitions, groups and intervals; then what its members are worth, and a comparison of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli.command import main
from tests.makers import write_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]


def report_of(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / name / "report.json").read_text())
    return found


def test_a_run_says_how_sure_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, ensemble__size=3, seeds=2, data__group_column="user")
    test = dict(np.load(tmp_path / "test.npz"))
    np.savez(tmp_path / "test.npz", **test, user=np.arange(len(test["y"])) // 4)
    assert main(["run", str(path)]) == 0
    shown = capsys.readouterr().err
    assert shown.index("run 'small-seed-1'") < shown.index("run 'small'\n")
    found, other = report_of(tmp_path, "small"), report_of(tmp_path, "small-seed-1")
    for system in found["systems"]:
        figures = system["test"]
        for name in ("accuracy", "nll", "ece", "brier"):
            low, high = figures[f"{name}_interval"]
            assert low < high and low - 0.1 < figures[name] < high + 0.1
    assert {(d["of"], d["over"]) for d in found["differences"]} == {
        ("ensemble", found["best_member"]), ("ensemble", "baseline"), ("student", "baseline"), ("student", "ensemble")
    }  # fmt: skip
    assert [each["seed"] for each in found["seeds"]] == [0, 1] and not other["seeds"]
    assert (
        found["seeds"][1]["student"] == next(s for s in other["systems"] if s["role"] == "student")["test"]["accuracy"]
    )
    assert {each["member"] for each in found["worth"]} == {"member-0", "member-1", "member-2"}
    ensemble = next(s for s in found["systems"] if s["role"] == "ensemble")
    assert found["worth"][-1]["accuracy"] == pytest.approx(ensemble["test"]["accuracy"])
    assert 0 < found["disagreement"] < 1
    text = (tmp_path / "runs/small/report.md").read_text()
    assert "## How sure the differences are" in text and "## Over 2 seeds" in text
    groups, examples = len(test["y"]) // 4, len(test["y"])
    assert found["test_groups"] == groups
    assert f"intervals over {groups} groups of {examples} test examples." in text

    assert main(["compare", str(tmp_path / "runs/small"), str(tmp_path / "runs/small-seed-1")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "differs in" in shown and "The student of small-seed-1 over that of small:" in shown
    assert main(["worth", str(tmp_path / "runs/small"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found["worth"]

    larger = ["--larger", "ensemble.model.kwargs.hidden=96"]
    assert main(["worth", str(path), "--members", "8", *larger, "--json"]) == 0
    foreseen = json.loads(capsys.readouterr().out)
    assert (foreseen["count"], foreseen["trained"]) == (8, 3)
    longer, wider = (foreseen["rivals"][name] for name in ("training", "size"))
    assert longer["more"] == 2 < wider["more"]
    assert all(0 <= rival["beats"] <= 1 for rival in (longer, wider))
    assert foreseen["gain"]["low"] < foreseen["gain"]["value"] < foreseen["gain"]["high"]
    events = (tmp_path / "runs/small-worth/events.jsonl").read_text()
    assert "reused from run 'small': 3 of 5 members" in events
    assert (tmp_path / "runs/small/report.json").is_file()  # which `worth` leaves alone
    for asked, expected in (
        (["--members", "2"], "expected at least 3"),
        (["--larger", "ensemble.model.kwargs.hidden=2"], "times the weights of a member; expected at least 1.5"),
        (["--larger", "ensemble.model.gone=2"], "ensemble.model.gone"),
        (["--larger", "ensemble.training.epochs=9"], "expected a key that begins with ensemble.model."),
    ):
        assert main(["worth", str(path), *asked]) == 2
        assert expected in capsys.readouterr().err


def test_members_are_trained_until_the_next_adds_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_config(tmp_path, ensemble__size=9, ensemble__stop_when_flat=60.0))
    assert main(["run", path]) == 0
    found = report_of(tmp_path, "small")
    trained = [system["name"] for system in found["systems"] if system["role"] == "member"]
    assert 3 <= len(trained) < 9
    assert found["notes"][0].startswith(f"Stopped at {len(trained)} of 9 members: the next is expected to add")
    assert found["notes"][0] in capsys.readouterr().out
    events = (tmp_path / "runs/small/events.jsonl").read_text()
    assert f"reused from run 'small-grown': {len(trained)} of {len(trained)} members" in events

    assert main(["run", path, "--set", "ensemble.stop_when_flat=1.0e-9", "--set", "ensemble.size=4"]) == 0
    again = report_of(tmp_path, "small")
    assert sum(system["role"] == "member" for system in again["systems"]) == 4
    assert again["notes"][0].startswith("All 4 members are trained")
    for wrong in ("ensemble.size=auto", "ensemble.weights=[1, 1]"):
        assert main(["run", path, "--set", wrong]) == 2
        assert "stop_when_flat" in capsys.readouterr().err
