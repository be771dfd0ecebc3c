"""Trained networks, each in a folder named by its key: found again by what they follow from, never overwritten.

The key is a digest of everything that the weights follow from. So a changed recipe trains beside the earlier weights,
and the earlier recipe finds them again. `show` puts a copy where users look: `members/<i>`, `baseline`, `student`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from orchestrator.run_folder import paths
from workers import storage
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.redact import hidden
from workers.specs import WEIGHTS
from workers.targets.soft_targets import fingerprint
from workers.training.loop import Epoch
from workers.user_code import provenance

RECORD = "training.json"
FORMAT = 2
"""Of the record. 1 lay beside the shown weights only, and named no inputs."""
SHOWN_CHANGES = 5
_DIGEST = re.compile(r"[0-9a-f]{16,}")


class Record(BaseModel):
    """What is written beside trained weights, after them."""

    format: int = 1
    fingerprint: str
    """Of everything the weights follow from, the content of the soft targets included."""
    sha256: str
    """Of the weights."""
    history: list[dict[str, Any]]
    inputs: dict[str, str] = {}
    """What the key was made from, by dotted names, without credentials."""
    versions: dict[str, str] = {}
    """Of the packages that trained the network."""

    def epochs(self) -> list[Epoch]:
        return [Epoch(**{**e, "epoch": int(e["epoch"]), "examples": int(e["examples"])}) for e in self.history]


@dataclass(frozen=True)
class Trained:
    """A trained system, and whether an earlier run had trained it."""

    member: Member
    history: list[Epoch]
    reused: bool


def folder_of(run: str, inputs: Mapping[str, Any]) -> str:
    """The folder, in that of the run at `run`, of the network that follows from just these inputs."""
    return storage.join(run, paths.TRAINED, fingerprint(**inputs))


def record(member: Member, mark: str, inputs: Mapping[str, Any], history: Iterable[Epoch]) -> None:
    """Declare the weights of `member` complete. mark: the fingerprint that `complete` is to ask for."""
    written = Record(
        format=FORMAT,
        fingerprint=mark,
        sha256=checkpoints.sha256(member.weights),
        history=[vars(epoch) for epoch in history],
        inputs=flat(inputs),
        versions=provenance.versions(),
    )
    storage.write_text(storage.join(storage.parent(member.weights), RECORD), written.model_dump_json() + "\n")


def record_in(folder: str) -> Record | None:
    """The record of the network in a folder; None where no network was trained to the end there."""
    uri = storage.join(folder, RECORD)
    if not storage.exists(uri):
        return None
    try:
        return Record.model_validate_json(storage.read_text(uri))
    except ValueError:  # not the record that was written, or no text at all
        return None


def complete(member: Member, mark: str) -> Record | None:
    """The record of a system that was trained to the end from just this, else None."""
    found = record_in(storage.parent(member.weights))
    if found is None or found.fingerprint != mark or not storage.exists(member.weights):
        return None
    return found if found.sha256 == checkpoints.sha256(member.weights) else None


def show(member: Member, place: str) -> None:
    """Let the folder `place` show the network: its weights and its record."""
    source = storage.parent(member.weights)
    weights = member.model.weights_name
    if record_in(place) != record_in(source) or not storage.exists(storage.join(place, weights)):
        for name in (weights, RECORD):  # the record last: it states what the weights beside it are
            storage.copy(storage.join(source, name), storage.join(place, name))
        for name in set(WEIGHTS) - {weights}:  # of another kind of model that was shown before
            storage.remove(storage.join(place, name))


def changes(place: str, inputs: Mapping[str, Any]) -> str:
    """How the network that `place` shows differs from the one that follows from `inputs`, in a few words.

    Empty where `place` shows none, or one from the same inputs.
    """
    before = record_in(place)
    if before is None:
        return ""
    if before.format != FORMAT or not before.inputs:
        return "an earlier version of Stillhouse trained the one that is there"
    old, new = before.inputs, flat(inputs)
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    causes = [key for key in differing if not key.startswith("built.")]  # which is seldom the cause itself
    found = [_change(key, old.get(key), new.get(key)) for key in causes or differing]
    more = f" and {len(found) - SHOWN_CHANGES} more" if len(found) > SHOWN_CHANGES else ""
    return ", ".join(found[:SHOWN_CHANGES]) + more


def other_versions(found: Record) -> str:
    """The packages that have another version now than when the network was trained; empty where there is none."""
    now = provenance.versions()
    return ", ".join(
        f"{name} {found.versions[name]} -> {now.get(name, 'none')}"
        for name in sorted(found.versions)
        if found.versions[name] != now.get(name)
    )


def flat(inputs: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested inputs by dotted names, as text, without credentials."""
    found: dict[str, str] = {}
    for key, value in inputs.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            found[f"{prefix}{key}"] = hidden(f"{key}={text}").removeprefix(f"{key}=")
    return found


def _change(key: str, old: str | None, new: str | None) -> str:
    if old is None or new is None:
        return f"{key} is {'new' if old is None else 'gone'}"
    return f"{key} changed" if _DIGEST.fullmatch(old) or _DIGEST.fullmatch(new) else f"{key}: {old} -> {new}"
