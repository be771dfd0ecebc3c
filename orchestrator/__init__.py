"""The control plane: all decisions of a run. Programs import the same names from `stillhouse`.

Slow imports wait until a run starts, so that the command responds at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.run_config import RunConfig
    from orchestrator.reporting.report import Report

__all__ = ["Report", "RunConfig", "run"]
_HOMES = {"Report": "orchestrator.reporting.report", "RunConfig": "orchestrator.config.run_config"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def run(config: RunConfig, **options: Any) -> Report:
    """Run `config` and return its report; see `orchestrator.runs.run`."""
    from orchestrator.cluster import environment

    environment.prepare()
    from orchestrator.runs import run as execute

    return execute(config, **options)
