"""`stillhouse init` in one page: look at data and checkpoints, decide sizes, write files, tell what was guessed."""

from __future__ import annotations

import importlib
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.start import checkpoints, configuration, look, models, recipe, splits, template, tokenizer
from orchestrator.config import loading, names, reference
from orchestrator.config.loading import CONFIG
from orchestrator.config.run_config import RunConfig
from workers import storage
from workers.errors import RequestError

MODELS, TOKENIZER = "models.py", "tokenizer"
FILES = (CONFIG, MODELS, configuration.SCHEMA, TOKENIZER)


@dataclass(frozen=True)
class Started:
    """The files that `init` wrote, and for its messages what it found and chose."""

    files: tuple[str, ...]
    seen: look.Seen
    members: checkpoints.Members
    chosen: recipe.Recipe


def start(
    folder: str, data: Sequence[str], given: Sequence[str], label: str | None, text: str | None = None
) -> Started:
    """Write `config.yaml`, `models.py`, the schema, and for texts a tokenizer into `folder`.

    data: paths or URIs of files; none: what lies in `folder`. given: of checkpoints. label, text: their columns. Where
    none of these is given and the folder has no data, the files have placeholders.

    Raises: `RequestError` where a file exists already, or where data or checkpoints cannot be used. Nothing is left
    behind then.
    """
    place = storage.local_folder(folder)
    _check_free(place)
    if data or given or label or text or splits.has_data(str(place)):
        found = splits.given([storage.absolute(each) for each in data], str(place))
        seen = look.look(found, label, text)
    else:
        found, seen = template.FOUND, template.SEEN
    members = checkpoints.look([storage.absolute(each) for each in given], seen)
    of_checkpoint = next((g["model"]["checkpoint"] for g in members.groups if "checkpoint" in g["model"]), None)
    tokens, vocabulary, made = _tokenizer(seen, of_checkpoint)
    chosen = recipe.recipe(seen, vocabulary)
    name, place_of_tokens = name_of(place, found), str(configuration.located(tokens, place))
    texts = {
        CONFIG: configuration.text(name, seen, members, chosen, folder=place, tokenizer=place_of_tokens),
        MODELS: models.text(name, chosen.factory, members.functions),
        configuration.SCHEMA: json.dumps(reference.schema(), indent=1) + "\n",
        **made,
    }
    RunConfig.from_mapping(loading.parsed(texts[CONFIG], CONFIG), str(place))
    return Started(_written(place, texts), seen, members, chosen)


def _tokenizer(seen: look.Seen, of_checkpoint: str | None) -> tuple[str, int, dict[str, str]]:
    """The tokenizer of texts: its place, the number of its tokens, and its file, unless it is a checkpoint's."""
    if not seen.is_text:
        return "", 0, {}
    tokenizer.check_installed()
    if of_checkpoint:
        return of_checkpoint, checkpoints.vocabulary(of_checkpoint), {}
    content, size = tokenizer.learnt(seen)
    return TOKENIZER, size, {f"{TOKENIZER}/tokenizer.json": content}


def _check_free(place: Path) -> None:
    """Raise `RequestError` where a file that would be written exists, or the folder is not accessible."""
    try:
        is_file = place.exists() and not place.is_dir()
        taken = [name for name in FILES if (place / name).exists()]
    except OSError as error:
        raise storage.not_writable(place, error) from error
    if is_file:
        raise RequestError(f"'{place}' is a file; expected a folder, which need not exist.")
    if taken:
        raise RequestError(
            f"'{place / taken[0]}' exists, and nothing is overwritten. Name another folder, or move it away."
        )


def name_of(place: Path, found: splits.Given) -> str:
    """A name for the run, from the folder's."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", place.name.lower()).strip("-._")
    return plain[: names.MOST].rstrip("-._") or found.kind


def _written(place: Path, texts: dict[str, str]) -> tuple[str, ...]:
    """Write all files, or none; returns their names, and those of their folders."""
    made = storage.missing_folders(str(place))
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stillhouse-", dir=place) as inside:
            for name, content in texts.items():
                Path(inside, name).parent.mkdir(exist_ok=True)
                Path(inside, name).write_text(content, encoding="utf-8")
            names = sorted({name.partition("/")[0] for name in texts}, key=FILES.index)
            for name in names:
                Path(inside, name).rename(place / name)
    except OSError as error:
        storage.remove_empty(made)
        raise storage.not_writable(place, error) from error
    importlib.invalidate_caches()  # Python has looked for models.py in this folder before it existed
    return tuple(names)
