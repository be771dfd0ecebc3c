"""Trained networks, each in a folder named by its cache key, so that no run overwrites them.

A changed recipe has another key, so its weights are stored beside the earlier ones, and the earlier recipe finds its
own again. `show` copies the current ones to the user's folders: `members/<i>`, `baseline`, `student`.
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
from workers.models import checkpoints, predictor
from workers.specs.models import is_of_model
from workers.training.loop import Epoch
from workers.user_code import provenance


@dataclass(frozen=True)
class Trained:
    """A trained system, and whether an earlier run trained it."""

    member: Member
    history: list[Epoch]
    reused: bool
    before: tuple[Trained, ...] = ()
    """The earlier stages of a student that was trained in several."""

    @property
    def stages(self) -> tuple[Trained, ...]:
        """All stages of its training."""
        return (*self.before, self)


def commit(artifacts: Catalogue, member: Member, key: Key, history: Iterable[Epoch], **facts: object) -> None:
    """Mark the weights of `member`, in the folder of `key`, as complete. facts: values that `obtain` compares."""
    uri = artifacts.uri(paths.network(key.digest))
    files = {member.model.weights_name: checkpoints.sha256(member.weights)}
    for name, content in predictor.kind_of(member.model).companions(member.model).items():
        storage.write_bytes(storage.join(storage.parent(member.weights), name), content)
        files[name] = storage.sha256(content)
    store.commit(uri, key, files, provenance.versions(), history=[vars(epoch) for epoch in history], **facts)
    artifacts.register(key, paths.network(key.digest))


def record_in(folder: str) -> Record | None:
    """The record of the network in a folder; None where it has no completely trained network."""
    return store.read(storage.join(folder, paths.NETWORK), NETWORK)


def epochs(record: Record) -> list[Epoch]:
    """The history of a trained network."""
    return [
        Epoch(**{**e, "epoch": int(e["epoch"]), "examples": int(e["examples"])})
        for e in record.facts.get("history", ())
    ]


def show(member: Member, place: str) -> None:
    """Copy the network's weights and record to the folder `place`, unless it has both as they were written."""
    source = storage.parent(member.weights)
    record, shown = record_in(source), record_in(place)
    assert record is not None, "it is written before the network is shown"
    if shown != record or not store.is_whole(storage.join(place, paths.NETWORK), record):
        files = list(record.files)
        for name in (*files, paths.NETWORK):  # the record last, since it describes the files beside it
            storage.copy(storage.join(source, name), storage.join(place, name))
        of_others = {name for name in storage.names(place) if is_of_model(name)} - {*files}
        for name in of_others:  # of another kind of model that was shown before
            storage.remove(storage.join(place, name))


def changes(place: str, key: Key) -> str:
    """Describe how the inputs of the network in `place` differ from those of `key`.

    Empty where `place` has no network, or the network of this key.
    """
    before = record_in(place)
    if before is None or before.key == key.digest:
        return ""
    now = key.flat()
    if before.format != NETWORK.version and before.what.keys() != now.keys():  # it knew other inputs
        return "an earlier version of Stillhouse trained the existing network"
    return keys.changes(before.what, now)


def other_versions(found: Record) -> str:
    """Packages whose versions have changed since the network was trained; empty where there are none."""
    now = provenance.versions()
    return ", ".join(
        f"{name} {found.versions[name]} -> {now.get(name, 'none')}"
        for name in sorted(found.versions)
        if found.versions[name] != now.get(name)
    )
