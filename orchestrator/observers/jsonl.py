"""`events.jsonl`: the run's own timed record, independent of the tracker, with one JSON object per line."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.observers.events import Event, RunEnded, RunStarted, StageEnded
from orchestrator.run_folder.paths import RunFolder
from workers import json_text, storage
from workers.redact import redacted

MILESTONES = (RunStarted, StageEnded, RunEnded)
"""Events after which the file is written to an object store."""


class EventLog:
    """Appends to the file of a run. On an object store, which cannot append, `flush` rewrites the whole file."""

    def __init__(self, folder: str) -> None:
        self.uri = RunFolder(folder).events
        self._local = storage.is_local(self.uri)
        self._lock = threading.Lock()
        self._lines: list[str] = []
        before = storage.read_bytes(self.uri) if storage.exists(self.uri) else b""
        if not self._local:
            self._lines = before.decode(errors="replace").splitlines()
        self._truncated = bool(before) and not before.endswith(b"\n")
        """Whether the file ends within a line: of a killed process, or of a write that a full disk cut."""

    def __call__(self, event: Event) -> None:
        """Record an event that has a name."""
        if event.name:
            self.write(event.name, **event.fields())
        if isinstance(event, MILESTONES):
            self.flush()

    def write(self, event: str, **fields: Any) -> None:
        """One line: the time in UTC, the event's name, and `fields`."""
        kept = {key: redacted(value) if isinstance(value, str) else value for key, value in fields.items()}
        line = json_text.dumps({"time": datetime.now(UTC).isoformat(), "event": event, **kept})
        with self._lock:
            if self._local:
                path = Path(storage.filesystem(self.uri)[1])
                path.parent.mkdir(parents=True, exist_ok=True)
                text = "\n" * self._truncated + line + "\n"
                self._truncated = True  # until the whole line is written
                with path.open("a", encoding="utf-8") as file:
                    file.write(text)
                self._truncated = False
            else:
                self._lines.append(line)

    def flush(self) -> None:
        """Make everything so far visible."""
        with self._lock:
            if self._lines:
                storage.write_text(self.uri, "\n".join(self._lines) + "\n")
