"""Distil an ensemble of teachers into one student, on Ray: the public API for programs.

    from stillhouse import RunConfig, plan, run

    config = RunConfig.load("config.yaml", overrides=["seed=1"])
    print(plan(config, probe=False).outlook.seconds)
    report = run(config)
    print(report.system("student").test.accuracy, report.gain_transferred)

`run` starts its own Ray on one machine, or uses a Ray cluster that the program has already joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator import Report, RunConfig, run
from workers import __version__

if TYPE_CHECKING:
    from orchestrator.plan.summary import Planned

__all__ = ["Report", "RunConfig", "__version__", "plan", "run"]


def plan(config: RunConfig, **asked: Any) -> Planned:
    """What `run` would execute: where each stage runs, seconds, hours, bytes, and what does not fit.

    asked: fields of `orchestrator.planning.Asked`, such as `probe=False` for a plan from shapes alone.
    Raises: `RequestError` where the run would; `RunError` where the rehearsal fails.
    """
    from orchestrator.cluster import environment

    environment.prepare()  # before the slow imports, as `run` does
    from orchestrator import planning

    return planning.planned(config, planning.Asked(**asked))
