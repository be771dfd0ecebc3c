"""Diagnoses this machine, and what a configuration needs of it: a table of checks. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cli.checks import machine
from orchestrator.cli.checks.finding import Check, Finding

if TYPE_CHECKING:
    from orchestrator.config.run_config import RunConfig

MACHINE: dict[str, Callable[[], Finding]] = {
    **{name: partial(machine.version, name) for name in machine.PACKAGES},
    "cores": machine.cores,
    "GPUs": lambda: machine.gpus(machine.built(), machine.driver()),
    "shared memory": machine.shared_memory,
    "open files": machine.open_files,
    "cluster": machine.cluster,
}
"""The checks of this machine, by their subjects."""


def checks(config: RunConfig | None) -> Iterator[Check]:
    """The checks in their order: of the machine, and with a configuration, of what it needs.

    Modules that take long to load are loaded once a check of the configuration is asked.
    """
    yield "python", machine.python
    yield from MACHINE.items()
    if config is not None:
        from orchestrator.cli.checks import request

        yield from request.checks(request.Request(config))
