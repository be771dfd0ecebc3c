"""A run with all that belongs to it: an ensemble that grows, other seeds, further students, further generations."""

from __future__ import annotations

from dataclasses import replace

from orchestrator import generations
from orchestrator.config.run_config import RunConfig
from orchestrator.execution import executed
from orchestrator.growing import grown
from orchestrator.observers.terminal import Screen
from orchestrator.pipeline import REPORT, STAGES
from orchestrator.reporting.report import Report
from orchestrator.run_folder import lock, owned
from orchestrator.stages import preflight
from orchestrator.stages.context import Options
from workers.errors import RequestError, RunError


def run(
    config: RunConfig,
    *,
    fresh: bool = False,
    verbose: bool = False,
    screen: Screen | None = None,
    command: str = "",
) -> Report:
    """Distil the ensemble of `config` into its student, and compare all systems.

    fresh: recompute complete artifacts instead of reusing them. verbose: show Ray's own log lines. screen: displays the
    progress (default: no display). command: what the user typed, for the report.

    With `seeds`, `students` or `generations`, the other runs come first, and the report has their figures beside its
    own.

    Raises: `RequestError` for an invalid request, before the first run starts or writes anything; `RunError` later.
    """
    several = sum(1 for _ in config.of_command()) > 1
    options = Options(verbose, screen or Screen(quiet=True), fresh=fresh, several=several)
    try:
        return _run(config, options, command)
    except RequestError as error:
        if options.done:  # the request was right for a first run; a server or a file was lost since
            raise RunError(str(error)) from error
        raise


def _run(config: RunConfig, options: Options, command: str = "") -> Report:
    """A run with all that belongs to it. options: of each run of the command."""
    for each in config.of_command():  # before the first of them trains
        lock.check_free(each.folder)
        owned.check(each, fresh=options.starts_over(each.name))
    preflight.check_further(config, options.screen.wait_for)
    note = ""
    if config.ensemble.stop_when_flat is not None:
        settled = grown(config, options)
        config, note = settled.config, settled.note
    part = replace(options, part_of=options.part_of or config.name)
    others = [_run(other, part) for other in config.of_seeds()]
    students = {name: _run(other, part) for name, other in config.of_students().items()}
    for generation in config.of_generations():
        _run(generation, part)
    figures = generations.compared(config, options)
    if options.several:
        options.screen.say(f"run '{config.name}'")
    own = replace(options, repetitions=others, students=students, generations=figures, command=command, note=note)
    return executed(config, STAGES, own)[REPORT]
