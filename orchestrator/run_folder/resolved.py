"""The resolved configuration in a run's folder, which may have been moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.config.loading import override, parsed
from orchestrator.config.run_config import RunConfig
from orchestrator.run_folder.paths import RunFolder, damaged
from workers import storage
from workers.specs.data import keys_of_others


def keys_of(folder: str) -> dict[str, Any]:
    """The keys of the configuration of the run in `folder`, with `student`, which is the first of `students`.

    Raises: `RequestError` where there is none, or it is not YAML.
    """
    values = _written(folder)
    several = values.get("students")
    return {"student": next(iter(several.values())), **values} if several and isinstance(several, dict) else values


def _written(folder: str) -> dict[str, Any]:
    """The keys in the file, but those of `data` that its kind does not read: earlier versions ignored them."""
    uri = RunFolder(folder).config
    content = storage.read_bytes(uri)
    try:
        values = parsed(content.decode(), uri)
    except UnicodeDecodeError as error:
        raise damaged(uri, error) from None
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("kind"), str):
        ignored = keys_of_others(data["kind"])
        values["data"] = {key: value for key, value in data.items() if key not in ignored}
    return values


def config_of(folder: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of the run in `folder`, with `KEY=VALUE` overrides; opens no file that it names.

    Raises: `RequestError` where there is none, or it is no configuration.
    """
    values = _written(folder)
    for each in overrides:
        override(values, each)
    return RunConfig.from_mapping(values, folder)
