"""The run's own record, also where its writer was killed in the middle of a line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.observers.jsonl import EventLog
from orchestrator.run_folder.history import last_opened


def test_a_line_follows_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(str(tmp_path)).write("run", mlflow_run="first")
    with path.open("ab") as file:
        file.write(b'{"time": "2026-11-2\xff')
    EventLog(str(tmp_path)).write("run", mlflow_run="second")
    *_, last = path.read_bytes().splitlines()
    assert json.loads(last)["mlflow_run"] == "second" == last_opened(str(tmp_path))


def test_what_is_no_event_opened_nothing(tmp_path: Path) -> None:
    assert last_opened(str(tmp_path)) is None
    EventLog(str(tmp_path)).write("run", mlflow_run="first")
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'1\n"run"\n{"event": "run"}\n{"evnt": "run"}\n\xc3\x28\n')
    assert last_opened(str(tmp_path)) == "first"


def test_a_line_follows_one_that_a_full_disk_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(str(tmp_path))
    log.write("run", mlflow_run="first")
    opened = Path.open

    def full(path: Path, *how: Any, **also: Any) -> Any:
        with opened(path, "ab") as file:
            file.write(b'{"time": "2026')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="space"):
        patched.setattr(Path, "open", full)
        log.write("note", text="lost")
    log.write("run", mlflow_run="second")
    log.write("run", mlflow_run="third")
    assert last_opened(str(tmp_path)) == "third"
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["mlflow_run"] for line in (lines[0], *lines[2:])] == ["first", "second", "third"]


def test_an_infinite_figure_leaves_a_line_that_every_parser_reads(tmp_path: Path) -> None:
    """Such as the NLL of trees, for a label of probability 0."""
    EventLog(str(tmp_path)).write("epoch", validation_nll=math.inf, terms={"soft": [math.nan, -math.inf, 1.5]})
    line = (tmp_path / "events.jsonl").read_text()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["validation_nll"] == "Infinity" and found["terms"] == {"soft": ["NaN", "-Infinity", 1.5]}
