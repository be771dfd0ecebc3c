"""The mark that Stillhouse created a run's folder, and the removal of files that runs write.

A user may keep data, notes or checkpoints in the same folder. So a run overwrites and removes only files that runs
write, and only in a folder with the mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from orchestrator.config import inputs
from orchestrator.config.run_config import RunConfig
from orchestrator.run_folder import lock, paths
from orchestrator.run_folder.history import last_opened
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.artifacts import catalogue
from workers.errors import RequestError, first_few
from workers.specs.models import is_of_model

MARK = paths.PLACES["mark"].path()
PLAN = paths.PLACES["plan"].path()
FORMAT = 1
"""Format of the mark; a run rejects a folder of a later format."""


def check(config: RunConfig, *, fresh: bool) -> None:
    """Raise `RequestError` where a run in this folder would overwrite or remove files that no run wrote.

    fresh: whether the run first removes the results of earlier runs.
    """
    folder = config.folder
    mark, present = _mark_in(folder), [name for name in storage.names(folder) if not name.startswith(lock.NAME)]
    if mark is None:
        if fresh and present:
            raise RequestError(
                f"--fresh: '{folder}' has no {MARK}, so Stillhouse did not make it, or an earlier version did. It "
                f"holds {_some(present)}. Nothing was removed. Remove it by hand, or set another `name` or `storage`."
            )
        in_the_way = [name for name in present if paths.is_in_the_way(name)]
        if in_the_way and last_opened(folder) is None:
            raise RequestError(
                f"'{folder}' has no {MARK}, so no run of Stillhouse made it, and a run would overwrite its "
                f"{_some(in_the_way)}. Set another `name` or `storage`, or move these away."
            )
    elif mark.get("format") != FORMAT:
        raise RequestError(
            f"'{folder}' has format {mark.get('format')!r}; this version of Stillhouse reads and writes {FORMAT}. Use "
            "the version that made it, or set another `name`."
        )
    if not fresh:
        catalogue.check(folder)
    inside = [place for place in inputs.every(config) if _is_inside(place, folder)] if fresh else []
    if inside:
        raise RequestError(
            f"--fresh: '{inside[0]}' is an input of this configuration and lies in the run's own folder '{folder}', "
            "which is to be cleared. Nothing was removed. Move the inputs out of it, or set another `name`."
        )


def mark(folder: str) -> None:
    """Mark the folder as that of a run."""
    if _mark_in(folder) is None:
        storage.write_text(RunFolder(folder).mark, json.dumps({"format": FORMAT}) + "\n")


def clear(folder: str) -> None:
    """Remove only files that earlier runs wrote, except the mark, the lock and the plan."""
    kept = (MARK, lock.NAME, PLAN)
    ours = [path for path in storage.files_below(folder) if path not in kept and paths.is_written(path)]
    storage.remove_files(folder, ours)


def remove_shown(folder: str, kind: Literal["member", "stage"], current: Collection[str]) -> None:
    """Remove the records of networks that earlier runs in a run's folder have shown, and the current run does not have.

    current: the numbers of the members that it trains, or the names of the student's earlier stages. The weights stay,
    with the files that other software needs to load them: other configurations may read them by their place.
    """
    top, written = paths.PLACES[kind].template.split("/")[0], re.compile(paths.PLACES[kind].pattern)
    place = storage.join(folder, top)
    for name in storage.names(place):
        if name not in current:
            files = [file for file in storage.files_below(storage.join(place, name)) if not is_of_model(file)]
            gone = [path for file in files if written.fullmatch(path := f"{top}/{name}/{file}")]
            storage.remove_files(folder, gone)


def _mark_in(folder: str) -> dict[str, Any] | None:
    content = storage.read_if_there(RunFolder(folder).mark)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_inside(place: str, folder: str) -> bool:
    if storage.is_local(place) != storage.is_local(folder):
        return False
    if not storage.is_local(place):
        return place.rstrip("/") == folder.rstrip("/") or place.startswith(folder.rstrip("/") + "/")
    inner, outer = (Path(storage.filesystem(each)[1]).resolve() for each in (place, folder))
    return inner.is_relative_to(outer)


def _some(names: list[str]) -> str:
    return first_few(names, 5, "'{}'".format)
