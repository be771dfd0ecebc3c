"""The run's own record, also where whoever wrote it was killed in the middle of a line."""

import json
from pathlib import Path

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
