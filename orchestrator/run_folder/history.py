"""Reads earlier runs from a folder's `events.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orchestrator.run_folder.paths import RunFolder
from workers import storage

Ended = tuple[str, int, float]
"""A system, the number of an epoch, and when it ended, in seconds since 1970."""


def last_opened(folder: str) -> str | None:
    """The MLflow run that the last `stillhouse run` in this folder opened; None without an earlier run."""
    opened = [str(event["mlflow_run"]) for event in _events(folder, "run", "mlflow_run")]
    return opened[-1] if opened else None


def epochs(folder: str) -> frozenset[Ended]:
    """The epochs that earlier runs in this folder have recorded."""
    found = _events(folder, "epoch", "system", "epoch", "ended_s")
    return frozenset((event["system"], event["epoch"], event["ended_s"]) for event in found)


def _events(folder: str, name: str, *fields: str) -> Iterator[dict[str, Any]]:
    """The events of a name that have these fields."""
    uri = RunFolder(folder).events
    for line in storage.read_bytes(uri).splitlines() if storage.exists(uri) else ():
        try:
            event = json.loads(line)
        except ValueError:  # a truncated line of a killed process
            continue
        if isinstance(event, dict) and event.get("event") == name and all(field in event for field in fields):
            yield event
