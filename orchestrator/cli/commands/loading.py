"""Loads a configuration, and then torch, Ray and MLflow, with a line on the screen for each wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cluster import interrupts
from orchestrator.observers.terminal import Screen

if TYPE_CHECKING:
    from orchestrator.config.run_config import RunConfig


def prepared(path: str, overrides: Sequence[str], screen: Screen) -> RunConfig:
    """The configuration; the process is ready to import what needs Ray."""
    with interrupts.at_once():
        screen.wait_for("reading the configuration", brief=True)
        from orchestrator.config.run_config import RunConfig

        config = RunConfig.load(path, overrides)
        screen.wait_for("loading torch, Ray and MLflow")
        from orchestrator.cluster import environment

        environment.prepare()
    return config
