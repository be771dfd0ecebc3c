"""Trained networks, each in a folder named by its key: found again by what they follow from, never overwritten.

A changed recipe has another key, so it trains beside the earlier weights, and the earlier recipe finds them again.
`show` puts a copy where users look: `members/<i>`, `baseline`, `student`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.run_folder import paths
from workers import storage
from workers.artifacts import key as keys
from workers.artifacts import store
from workers.artifacts.catalogue import Catalogue
from workers.artifacts.key import Key
from workers.artifacts.kinds import NETWORK, Record
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.specs import WEIGHTS
from workers.training.loop import Epoch
from workers.user_code import provenance


@dataclass(frozen=True)
class Trained:
    """A trained system, and whether an earlier run had trained it."""

    member: Member
    history: list[Epoch]
    reused: bool
    before: tuple[Trained, ...] = ()
    """Of a student that was trained in several stages, those before the last."""

    @property
    def stages(self) -> tuple[Trained, ...]:
        """All stages of its training."""
        return (*self.before, self)


def commit(artifacts: Catalogue, member: Member, key: Key, history: Iterable[Epoch], **facts: object) -> None:
    """Declare the weights of `member` complete, which lie where `key` belongs. facts: what `obtain` is to ask for."""
    uri = artifacts.uri(paths.network(key.digest))
    files = {member.model.weights_name: checkpoints.sha256(member.weights)}
    store.commit(uri, key, files, provenance.versions(), history=[vars(epoch) for epoch in history], **facts)
    artifacts.register(key, paths.network(key.digest))


def record_in(folder: str) -> Record | None:
    """The record of the network in a folder; None where no network was trained to the end there."""
    return store.read(storage.join(folder, paths.NETWORK), NETWORK)


def epochs(record: Record) -> list[Epoch]:
    """The history of a trained network."""
    return [
        Epoch(**{**e, "epoch": int(e["epoch"]), "examples": int(e["examples"])})
        for e in record.facts.get("history", ())
    ]


def show(member: Member, place: str) -> None:
    """Let the folder `place` show the network: its weights and its record."""
    source = storage.parent(member.weights)
    weights = member.model.weights_name
    if record_in(place) != record_in(source) or not storage.exists(storage.join(place, weights)):
        for name in (weights, paths.NETWORK):  # the record last: it states what the weights beside it are
            storage.copy(storage.join(source, name), storage.join(place, name))
        for name in set(WEIGHTS) - {weights}:  # of another kind of model that was shown before
            storage.remove(storage.join(place, name))


def changes(place: str, key: Key) -> str:
    """How the network that `place` shows differs from the one that follows from `key`, in a few words.

    Empty where `place` shows none, or the one of this key.
    """
    before = record_in(place)
    if before is None or before.key == key.digest:
        return ""
    now = key.flat()
    if before.format != NETWORK.version and before.what.keys() != now.keys():  # it knew other inputs
        return "an earlier version of Stillhouse trained the one that is there"
    return keys.changes(before.what, now)


def other_versions(found: Record) -> str:
    """The packages that have another version now than when the network was trained; empty where there is none."""
    now = provenance.versions()
    return ", ".join(
        f"{name} {found.versions[name]} -> {now.get(name, 'none')}"
        for name in sorted(found.versions)
        if found.versions[name] != now.get(name)
    )
