"""Distil an ensemble of teachers into one student, on Ray: what a program imports.

    from stillhouse import RunConfig, run

    report = run(RunConfig.load("config.yaml", overrides=["seed=1"]))
    print(report.system("student").test.accuracy, report.gain_transferred)

`run` works alone on one machine, and inside a Ray that the program has already joined.
"""

from __future__ import annotations

from importlib.metadata import version

from orchestrator import Report, RunConfig, run

__all__ = ["Report", "RunConfig", "run"]
__version__ = version("stillhouse")
