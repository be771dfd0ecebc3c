"""`stillhouse report RUN --push`: what a tracker has not got of a finished run, because it was down meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from orchestrator import trackers, trained, yaml_text
from orchestrator.config import RunConfig, override
from orchestrator.events import last_opened
from orchestrator.pipeline import EXAMPLES
from orchestrator.report import Report, System
from orchestrator.tracking import Tracker
from orchestrator.trained import WEIGHTS
from workers import checkpoints, data, storage
from workers.errors import RequestError, RunError
from workers.teacher import Member
from workers.train_loop import Epoch

logger = logging.getLogger(__name__)


def push(report: Report, run: str, overrides: Sequence[str] = ()) -> None:
    """Send the report of the run whose folder is at `run`, and every epoch of its systems, to the tracker that its
    configuration names; `overrides` may name another, or one with a password, which is not kept.

    Raises: `RequestError` where there is no such run or tracker; `RunError` where sending fails.
    """
    folder = storage.absolute(run)
    values = yaml_text.parse(storage.read_text(storage.join(folder, "config.yaml")))
    for each in overrides:
        override(values, each)
    config = RunConfig.from_mapping(values, folder)
    trackers.reach(config.tracking.uri)
    histories = {system.name: _history(folder, system.name) for system in report.systems}
    models = {system.name: _model(config, system) for system in report.systems if system.role != "ensemble"}
    try:
        dataset = data.load(config.data, config.seed)
        checkpoints.sha256(models["student"].weights)
    except RequestError as error:
        logger.warning("MLflow gets the figures, but neither data sets nor the student: %s", error)
        dataset = None
    tracker = Tracker(config, again=last_opened(folder))
    try:
        tracker.catch_up(report, histories)
        if dataset is not None:
            tracker.data(dataset)
        tracker.report(report, histories, models, None if dataset is None else dataset.test.x[:EXAMPLES])
    finally:
        tracker.close("FINISHED")
    if tracker.missed is not None:
        raise RunError(f"the tracker at '{config.tracking.uri}' did not take all of it: {tracker.missed}. Send again.")


def _model(config: RunConfig, system: System) -> Member:
    """A trained or loaded system."""
    weights = storage.join(_place(config.folder, system.name), WEIGHTS)
    if system.role != "member":
        return Member(system.name, config.student.model, weights)
    given = config.ensemble.checkpoints
    weights = given[int(system.name.partition("-")[2])] if given else weights
    return Member(system.name, config.ensemble.model, weights)


def _history(folder: str, system: str) -> list[Epoch]:
    """A system's epochs; none where it was not trained in this run."""
    record = trained.record_in(_place(folder, system))
    return [] if record is None else record.epochs()


def _place(folder: str, system: str) -> str:
    kind, _, number = system.partition("-")
    return storage.join(folder, "members", number) if kind == "member" else storage.join(folder, system)
