"""The MLflow run of a sweep: the parent of its runs, with their table, page and heat maps."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.observers import mlflow_runs
from orchestrator.observers.mlflow_runs import FOLDER, ROLE
from orchestrator.reporting import sweeps
from orchestrator.reporting.sweeps import Sweep
from workers.redact import redacted

logger = logging.getLogger(__name__)

ENVIRONMENT = "STILLHOUSE_SWEEP"
"""Set in the processes of a sweep: the identifier of its run, which is the parent of theirs."""


def current() -> str:
    """The run of the sweep that this process belongs to; empty outside of sweeps."""
    return os.environ.get(ENVIRONMENT, "")


class TrackedSweep:
    """The MLflow run of a sweep, open while its runs run. A sweep in the same folder goes on in the same run."""

    def __init__(self, uri: str, experiment: str, name: str, folder: str) -> None:
        """Open the run. Raises: `RequestError` where the tracker refuses it."""
        tags = {FOLDER: redacted(folder)}
        with mlflow_runs.opening(uri, experiment):
            self.client, self.experiment_id = mlflow_runs.connected(uri, experiment)
            every = self.client.search_runs([self.experiment_id], f"tags.`{ROLE}` = 'sweep'")
            found = [run for run in every if run.data.tags.get(FOLDER) == tags[FOLDER]]
            if found:
                self.run_id = str(found[0].info.run_id)
                self.client.update_run(self.run_id, status="RUNNING")
            else:
                self.run_id = mlflow_runs.create(self.client, self.experiment_id, name, "sweep", tags)

    def close(self, sweep: Sweep | None, files: Mapping[str, bytes]) -> None:
        """Send the table, and files by their names, and end the run; without a sweep as failed."""
        try:
            if sweep is not None:
                self._send(sweep, files)
            self.client.set_terminated(self.run_id, "FAILED" if sweep is None else "FINISHED")
        except Exception as error:  # of any tracker; the files have the same
            logger.warning("MLflow does not get the sweep's table: %s: %s", type(error).__name__, error)

    def _send(self, sweep: Sweep, files: Mapping[str, bytes]) -> None:
        header, *rows = sweeps.rows(sweep)
        columns = {name: [row[k] for row in rows] for k, name in enumerate(header)}
        mlflow_runs.log_table(self.client, self.run_id, columns, "sweep.json")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            self.client.log_artifacts(self.run_id, folder)
        if sweep.best is not None:
            self.client.set_tag(self.run_id, "stillhouse.best", sweep.best)
