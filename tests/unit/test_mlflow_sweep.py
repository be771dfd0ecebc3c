"""The run of a sweep in MLflow: its table is that of the last sweep, and a tracker that refuses is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.observers.mlflow_sweep import TrackedSweep
from orchestrator.reporting import sweeps
from orchestrator.reporting.sweeps import SweptRun
from workers.errors import RequestError


def test_a_repeated_sweep_has_one_table(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for values in ((2, 5), (2, 5, 9)):
        tracked = TrackedSweep(uri, "digits", "digits-sweep", str(tmp_path))
        runs = [SweptRun(run=f"a-{k}", values={"ensemble.size": k}, parameters=1000, student=0.9) for k in values]
        tracked.close(sweeps.collected("digits-sweep", ["ensemble.size"], runs), {})
    found = json.loads(Path(tracked.client.download_artifacts(tracked.run_id, "sweep.json", str(tmp_path))).read_text())
    place = found["columns"].index("ensemble.size")
    assert [row[place] for row in found["data"]] == ["2", "5", "9"] and "size" in found["columns"]
    tracked.client.delete_experiment(tracked.experiment_id)
    with pytest.raises(RequestError, match="'digits' was deleted in the tracker"):
        TrackedSweep(uri, "digits", "digits-sweep", str(tmp_path))
