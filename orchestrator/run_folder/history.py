"""Reads earlier runs from a folder's `events.jsonl`."""

from __future__ import annotations

import contextlib
import json

from orchestrator.run_folder.paths import RunFolder
from workers import storage


def last_opened(folder: str) -> str | None:
    """The MLflow run that the last `stillhouse run` in this folder opened; None without an earlier run."""
    uri = RunFolder(folder).events
    if not storage.exists(uri):
        return None
    opened = None
    for line in storage.read_bytes(uri).splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a truncated line of a killed process
            event = json.loads(line)
            opened = str(event["mlflow_run"]) if event["event"] == "run" else opened
    return opened
