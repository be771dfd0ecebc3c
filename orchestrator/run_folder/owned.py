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

from orchestrator.config import loading
from orchestrator.config.initial import WORDS
from orchestrator.config.run_config import RunConfig
from orchestrator.run_folder import lock, paths
from orchestrator.run_folder.history import last_opened
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.artifacts import catalogue
from workers.errors import RequestError
from workers.specs.data import IdxFiles
from workers.user_code import factories

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
    inside = [place for place in inputs(config) if _is_inside(place, folder)] if fresh else []
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


def remove_shown(config: RunConfig, kind: Literal["member", "stage"], current: Collection[str]) -> None:
    """Remove the copies of networks that earlier runs in the folder have shown and the current run does not have.

    current: the numbers of the members that it trains, or the names of the student's earlier stages. Of a copy that is
    an input of the configuration the record alone is removed, which would describe another network of this name. The
    networks themselves stay under their keys.
    """
    top, written = paths.PLACES[kind].template.split("/")[0], re.compile(paths.PLACES[kind].pattern)
    place = storage.join(config.folder, top)
    others = [name for name in storage.names(place) if name not in current]
    read = inputs(config) if others else []
    for name in others:
        folder = storage.join(place, name)
        is_read = any(_is_inside(each, folder) for each in read)
        gone = [file for file in storage.files_below(folder) if not is_read or file == paths.NETWORK]
        files = [f"{top}/{name}/{file}" for file in gone]
        storage.remove_files(config.folder, [file for file in files if written.fullmatch(file)])


def _mark_in(folder: str) -> dict[str, Any] | None:
    content = storage.read_if_there(RunFolder(folder).mark)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def inputs(config: RunConfig) -> list[str]:
    """Files and folders that the configuration reads: data, checkpoints, code."""
    data = config.data
    found = [*config.ensemble.given().values(), *data.depends_on]
    found += [system.weights for system in config.evaluation.systems.values()]
    begun = [config.student.initial, *(stage.initial for stage in config.training_stages)]
    found += [initial for initial in begun if initial is not None and initial not in WORDS]
    found += [group.initial_file for group in config.ensemble.groups if group.initial_file is not None]
    found += [] if data.masking is None else [data.masking.tokenizer]
    of_stages = [stage.data.unlabeled for stage in config.student.stages or () if stage.data is not None]
    for split in (data.train, data.validation, data.test, data.unlabeled, *of_stages):
        files = (split.images, split.labels) if isinstance(split, IdxFiles) else (split,)
        found += [storage.absolute(file, data.root) for file in files if file]
    models = config.models.values()
    places = [(model.tokenizer, getattr(model, "checkpoint", None)) for model in models]
    found += [place for of_model in places for place in of_model if place is not None]
    code = [*loading.own_code(config.model_dump())]
    found += [file for _, section in code for file in section.get("depends_on", ())]
    found += [str(path) for name, section in code for path in factories.files(name, section.get("folder", ""))]
    named = factories.texts([section.get("kwargs") for _, section in code])
    found += [str(place) for text in named for root in (data.root, "") if (place := Path(root, text)).exists()]
    return found


def _is_inside(place: str, folder: str) -> bool:
    if storage.is_local(place) != storage.is_local(folder):
        return False
    if not storage.is_local(place):
        return place.rstrip("/") == folder.rstrip("/") or place.startswith(folder.rstrip("/") + "/")
    inner, outer = (Path(storage.filesystem(each)[1]).resolve() for each in (place, folder))
    return inner.is_relative_to(outer)


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
