"""The observers of a run, set up and ended: the terminal, `events.jsonl`, MLflow, Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.config.run_config import RunConfig
from orchestrator.observers.events import EpochEnded, Event, RunStarted
from orchestrator.observers.fanout import Background, Fanout, ended_by
from orchestrator.observers.jsonl import EventLog
from orchestrator.observers.mlflow_tracker import Tracker
from orchestrator.observers.terminal import Screen
from orchestrator.observers.tracking_record import TrackingRecord
from orchestrator.run_folder import history, owned
from workers import telemetry


@contextmanager
def observers(
    config: RunConfig, screen: Screen, record: TrackingRecord | None = None, *, fresh: bool = False
) -> Iterator[tuple[Fanout, str]]:
    """Open the observers of a run; yields their fanout and the run's page in MLflow.

    record: of code and data, for the tracker. fresh: the run starts over; the results of earlier runs are removed once
    the tracker has accepted the new one.

    Raises: `RequestError` where the tracker rejects the run, before anything is removed or written.
    """
    tracker = Tracker(config, record, earlier=history.last_opened(config.folder), fresh=fresh)
    try:
        if fresh:
            owned.clear(config.folder)
        known = history.epochs(config.folder)
        log = EventLog(config.folder)
    except BaseException:
        tracker.close("FAILED")
        raise
    with Background(tracker) as mlflow:
        events = Fanout([log, screen, mlflow, count_epochs], known)
        events.emit(RunStarted(config.name, tracker.run_id))
        try:
            yield events, tracker.page
        except BaseException as error:
            events.emit(ended_by(error))
            raise
        events.emit(ended_by(None))


@contextmanager
def untracked(config: RunConfig, screen: Screen, *, fresh: bool = False) -> Iterator[tuple[Fanout, str]]:
    """The observers of a run that MLflow does not get; without a page. fresh: as in `observers`."""
    if fresh:
        owned.clear(config.folder)
    yield Fanout([EventLog(config.folder), screen]), ""


def count_epochs(event: Event) -> None:
    """Count epochs for Prometheus."""
    if isinstance(event, EpochEnded):
        telemetry.count(telemetry.EPOCHS, system=event.system)
