"""`stillhouse report RUN --push`: sends the parts of a finished run that a tracker lacks, because it was down.

Everything comes from the run's folder, which may have been moved. The command imports no module, calls no factory and
reads no data set, since the folder may come from an untrusted source.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.run_config import RunConfig
from orchestrator.config.schema import NAME
from orchestrator.config.student import STAGE
from orchestrator.observers import mlflow_uri, tracking_record
from orchestrator.observers.mlflow_tracker import Tracker
from orchestrator.reporting.report import Report
from orchestrator.run_folder import model_folder
from orchestrator.run_folder.history import last_opened
from orchestrator.run_folder.paths import RunFolder
from orchestrator.run_folder.resolved import config_of
from orchestrator.stages import trained
from workers import storage
from workers.errors import RequestError, RunError
from workers.redact import redacted
from workers.training.loop import Epoch

logger = logging.getLogger(__name__)

TRAINED = re.compile(rf"member-(\d+)|baseline|student|stage-{STAGE.strip('^$')}")
"""Systems that a run trains, whose epochs are in its folder."""


def push(report: Report, run: str, overrides: Sequence[str] = ()) -> str:
    """Send the report of the run at `run`, and all epochs of its systems, to its configured tracker.

    overrides: may name another tracker, or one with a password, which is not stored. Returns the tracker's URI without
    credentials.

    Raises: `RequestError` where the run or the tracker does not exist, or the folder is not in the form that a run
    writes; `RunError` where sending fails.
    """
    folder = storage.absolute(run)
    config = config_of(folder, overrides)
    mlflow_uri.reach(config.tracking.uri)
    systems = [system.name for system in report.systems]
    stages = [stage.system for stage in config.training_stages[:-1]]  # of the student, before the last
    histories = {name: _history(folder, name) for name in (*systems, *stages)}
    record = tracking_record.read(folder)
    if record is None:
        logger.warning(
            "MLflow gets neither data sets nor code: '%s' has no %s. The same `stillhouse run` writes it.",
            folder,
            "tracking.json",
        )
    _check_model(config, folder)
    tracker = Tracker(config, record, again=last_opened(folder))
    try:
        tracker.catch_up(report, histories)
        tracker.report(report, histories, folder)
    finally:
        tracker.close("FINISHED")
    if tracker.missed is not None:
        raise RunError(
            f"the tracker at '{config.tracking.uri}' did not take the whole report: {tracker.missed}. Expected all of "
            f"it: check the tracker, then repeat `stillhouse report {run} --push`."
        )
    return redacted(config.tracking.uri)


def _check_model(config: RunConfig, folder: str) -> None:
    """Raise `RequestError` unless the student's model is in the form that a run writes; warn where it is missing."""
    if config.tracking.registered_model is False:
        return
    place = RunFolder(folder).shown("student")
    found = model_folder.read(place)
    if found is None:
        logger.warning(
            "MLflow does not get the student: '%s' has no model of it. The same `stillhouse run` writes it, or says "
            "why it cannot.",
            place,
        )
        return
    with tempfile.TemporaryDirectory(prefix="stillhouse-model-") as scratch:
        model_folder.fetch(place, found, Path(scratch))


def _history(folder: str, system: str) -> list[Epoch]:
    """A system's epochs; none where the run did not train it."""
    if re.fullmatch(NAME, system) is None:  # it becomes part of a path
        raise RequestError(f"'{folder}/report.json': a system is called '{system}'; expected a name of form {NAME}.")
    if TRAINED.fullmatch(system) is None:
        return []
    record = trained.record_in(RunFolder(folder).shown(system))
    return [] if record is None else trained.epochs(record)
