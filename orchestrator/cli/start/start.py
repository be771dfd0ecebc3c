"""`stillhouse init` in one page: look at data and checkpoints, decide sizes, write files, tell what was guessed."""

from __future__ import annotations

import importlib
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.start import checkpoints, configuration, look, models, recipe, splits, tokenizer
from orchestrator.config import loading, names, reference
from orchestrator.config.loading import CONFIG
from orchestrator.config.run_config import RunConfig
from workers import storage
from workers.errors import RequestError

MODELS, TOKENIZER = "models.py", "tokenizer"


@dataclass(frozen=True)
class Started:
    """What was written, and what is to be told."""

    files: tuple[str, ...]
    seen: look.Seen
    members: checkpoints.Members
    chosen: recipe.Recipe


def start(folder: str, data: Sequence[str], given: Sequence[str], label: str | None) -> Started:
    """Write `config.yaml`, `models.py`, the schema, and for texts a tokenizer into `folder`.

    data: paths or URIs of files; none: what lies in `folder`. given: of checkpoints. label: its column.
    Raises: `RequestError` where a file exists already, or where data or checkpoints cannot be used. Nothing is left
    behind then.
    """
    place = Path(storage.absolute(folder))
    _check_free(place)
    found = splits.given([storage.absolute(each) for each in data], str(place))
    seen = look.look(found, label)
    members = checkpoints.look([storage.absolute(each) for each in given], seen)
    of_checkpoint = next((g["model"]["checkpoint"] for g in members.groups if "checkpoint" in g["model"]), None)
    if seen.is_text:
        tokenizer.check_installed()
    chosen = recipe.recipe(seen, checkpoints.vocabulary(of_checkpoint) if of_checkpoint else recipe.VOCABULARY)
    name = name_of(place, found)
    tokens = str(configuration.located(of_checkpoint, place)) if of_checkpoint else TOKENIZER if seen.is_text else ""
    texts = {
        CONFIG: configuration.text(name, seen, members, chosen, folder=place, tokenizer=tokens),
        MODELS: models.text(name, chosen.factory, members.functions),
        configuration.SCHEMA: json.dumps(reference.schema(), indent=1) + "\n",
    }
    RunConfig.from_mapping(loading.parsed(texts[CONFIG], CONFIG), str(place))
    return Started(_written(place, texts, seen if tokens == TOKENIZER else None), seen, members, chosen)


def _check_free(place: Path) -> None:
    """Raise `RequestError` where a file that would be written exists."""
    if place.exists() and not place.is_dir():
        raise RequestError(f"'{place}' is a file; expected a folder, which need not exist.")
    taken = [name for name in (CONFIG, MODELS, configuration.SCHEMA, TOKENIZER) if (place / name).exists()]
    if taken:
        raise RequestError(
            f"'{place / taken[0]}' exists, and nothing is overwritten. Name another folder, or move it away."
        )


def name_of(place: Path, found: splits.Given) -> str:
    """A name for the run, from the folder's."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", place.name.lower()).strip("-._")
    return plain[: names.MOST].rstrip("-._") or found.kind


def _written(place: Path, texts: dict[str, str], with_tokenizer: look.Seen | None) -> tuple[str, ...]:
    """Write all files, or none; returns their names."""
    made = storage.missing_folders(str(place))
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stillhouse-", dir=place) as inside:
            if with_tokenizer is not None:
                tokenizer.write(with_tokenizer, Path(inside, TOKENIZER))
            for name, content in texts.items():
                Path(inside, name).write_text(content, encoding="utf-8")
            names = [*texts, *([TOKENIZER] if with_tokenizer is not None else [])]
            for name in names:
                Path(inside, name).rename(place / name)
    except OSError as error:
        storage.remove_empty(made)
        raise RequestError(f"'{place}' cannot be written ({error.strerror}).") from error
    importlib.invalidate_caches()  # Python has looked for models.py in this folder before it was there
    return tuple(names)
