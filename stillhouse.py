"""Distil an ensemble of teachers into one student, on Ray: the public API for programs.

    from stillhouse import RunConfig, run

    report = run(RunConfig.load("config.yaml", overrides=["seed=1"]))
    print(report.system("student").test.accuracy, report.gain_transferred)

`run` starts its own Ray on one machine, or uses a Ray cluster that the program has already joined.
"""

from __future__ import annotations

from orchestrator import Report, RunConfig, run
from workers import __version__

__all__ = ["Report", "RunConfig", "__version__", "run"]
