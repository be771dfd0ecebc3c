"""The resolved configuration in a run's folder, which may have been moved."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config.loading import override, parsed
from orchestrator.config.run_config import RunConfig
from orchestrator.run_folder.paths import RunFolder
from workers import storage


def config_of(folder: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of the run in `folder`, with `KEY=VALUE` overrides; opens no file that it names.

    Raises: `RequestError` where there is none, or it is no configuration.
    """
    uri = RunFolder(folder).config
    values = parsed(storage.read_text(uri), uri)
    for each in overrides:
        override(values, each)
    return RunConfig.from_mapping(values, folder)
