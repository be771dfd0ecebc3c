"""`stillhouse report RUN --push`: what a tracker has not got of a finished run, because it was down meanwhile."""

from __future__ import annotations

import json
from collections.abc import Sequence

import yaml

from orchestrator import tracking, training
from orchestrator.config import RunConfig, override
from orchestrator.report import Report
from orchestrator.tracking import Tracker
from workers import storage
from workers.errors import RunError
from workers.train_loop import Epoch


def push(report: Report, run: str, overrides: Sequence[str] = ()) -> None:
    """Send the report of the run whose folder is at `run`, and every epoch of its systems, to the tracker that its
    configuration names; `overrides` may name another, or one with a password, which is not kept.

    Raises: `RequestError` where there is no such run or tracker; `RunError` where sending fails.
    """
    folder = storage.absolute(run)
    values = yaml.safe_load(storage.read_text(storage.join(folder, "config.yaml")))
    for each in overrides:
        override(values, each)
    config = RunConfig.from_mapping(values, folder)
    tracking.reach(config.tracking.uri)
    tracker = Tracker(config, again=_opened(folder))
    histories = {system.name: _history(folder, system.name) for system in report.systems}
    tracker.catch_up(report, histories)
    tracker.report(report, histories)
    tracker.close("FINISHED")
    if tracker.missed is not None:
        raise RunError(f"the tracker at '{config.tracking.uri}' did not take all of it: {tracker.missed}. Send again.")


def _opened(folder: str) -> str | None:
    """The MLflow run that the last `stillhouse run` in this folder opened."""
    lines = storage.read_text(storage.join(folder, "events.jsonl")).splitlines()
    known = [event["mlflow_run"] for event in map(json.loads, lines) if event["event"] == "run"]
    return known[-1] if known else None


def _history(folder: str, system: str) -> list[Epoch]:
    """A system's epochs; none where it was not trained in this run."""
    kind, _, number = system.partition("-")
    place = storage.join(folder, "members", number) if kind == "member" else storage.join(folder, system)
    record = training.record_in(place)
    return [] if record is None else record.epochs()
