"""A command of several runs that is killed between two of them: repeated, it gives what an undisturbed one gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.chaos.monkey import outcome
from tests.makers import write_config

CASES = {
    "repetitions": (["run", "--set", "seeds=2"], ["small-seed-1", "small"]),
    "a sweep": (
        ["sweep", "--over", "distillation.temperature=1,2"],
        ["small-temperature-1", "small-temperature-2"],
    ),
}
"""A command, and the runs that it makes."""
COMPARED = ("run", "values", "problem", "student", "baseline", "ensemble", "gain_transferred", "parameters")
"""What `sweep.json` has of a run besides measured times."""


def command_in(folder: Path, words: list[str]) -> list[object]:
    return [*commands.STILLHOUSE, words[0], folder / "config.yaml", *words[1:]]


def swept(folder: Path) -> list[dict[str, Any]]:
    """The runs in the table of a sweep; none where the command was none."""
    table = folder / "runs" / "small-sweep" / "sweep.json"
    found = json.loads(table.read_text())["runs"] if table.exists() else []
    return [{key: run[key] for key in COMPARED} for run in found]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_same_command_completes_both_runs(case: str, tmp_path: Path) -> None:
    words, runs = CASES[case]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        write_config(folder, ensemble__size=2)
    commands.output(*command_in(whole, words))
    reports = [killed / "runs" / name / "report.json" for name in runs]
    with commands.running(*command_in(killed, words)) as driver:  # whose end kills all of it, as a lost power supply
        commands.wait_until(lambda: any(report.exists() for report in reports), 300, process=driver)
    assert sum(report.exists() for report in reports) == 1 and not swept(killed)
    commands.output(*command_in(killed, words))
    for name in runs:
        assert len(outcome(whole, name)) == 2, "a part and the student"
        assert outcome(killed, name) == outcome(whole, name), name
    assert swept(killed) == swept(whole) and len(swept(whole)) == (2 if case == "a sweep" else 0)
