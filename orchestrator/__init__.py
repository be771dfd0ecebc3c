"""The control plane: what decides. `RunConfig.load(path)` and `run(config)` are the way in from Python.

Nothing heavy is loaded until a run starts, so that the command answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.run_config import RunConfig
    from orchestrator.reporting.report import Report

__all__ = ["RunConfig", "run"]


def __getattr__(name: str) -> Any:
    if name == "RunConfig":
        from orchestrator.config.run_config import RunConfig

        return RunConfig
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def run(config: RunConfig, **options: Any) -> Report:
    """Run `config` to its report; see `orchestrator.pipeline.run`."""
    from orchestrator.cluster import environment

    environment.prepare()
    from orchestrator.pipeline import run as run_pipeline

    return run_pipeline(config, **options)
