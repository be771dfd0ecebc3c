"""The kinds of artifacts: an entry each, with the version of its format and the formats that are still read.

A kind's version is in its keys and in its records. Raise it where the content of files, or the meaning of the key,
changes: artifacts of the earlier version then count no more, unless `readers` has a function for their records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from workers.artifacts.key import Key


class Record(BaseModel):
    """What is written beside an artifact's files, after them: that they are complete, and what they follow from."""

    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="constants")

    format: int
    """Version of the kind's format."""
    kind: str
    key: Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]
    """Digest of the artifact's key; it becomes part of a path."""
    files: dict[str, str]
    """sha256, or its beginning, of each file by its name beside the record."""
    what: dict[str, str] = {}
    """What the key was made from, by dotted names, without credentials."""
    versions: dict[str, str] = {}
    """Of the packages that computed the artifact; they decide nothing."""
    facts: dict[str, Any] = {}
    """What else is known of the artifact, such as a network's history."""


Reader = Callable[[Mapping[str, Any]], Record]


@dataclass(frozen=True)
class Kind:
    """A kind of artifact. `kind.key(**what)` makes its keys."""

    name: str
    version: int
    readers: Mapping[int, Reader] = field(default_factory=dict)
    """By format: what makes a `Record` of JSON that is none, such as one of an earlier version."""
    self_checked: bool = False
    """Whether its files carry checksums in their names (`workers.artifacts.parts`) and are verified where they are
    read. What a killed run left of them counts without a record."""

    def key(self, **what: Any) -> Key:
        return Key(self.name, self.version, **what)

    def record(self, written: Mapping[str, Any]) -> Record | None:
        """The record that was `written`; None where its format is not read any more.

        Raises: ValueError, LookupError or TypeError where it is no record.
        """
        found_format = format_of(written)
        reader = self.readers.get(found_format)
        if reader is not None:
            return reader(written)
        return Record.model_validate(written) if found_format == self.version else None


def format_of(written: Mapping[str, Any]) -> int:
    """The format of a record; 1 where it has none, as the first ones had."""
    found = written.get("format", 1)
    return found if isinstance(found, int) else 1


def _manifest(written: Mapping[str, Any]) -> Record:
    """The manifest of soft targets, whose names are a contract."""
    return Record(
        format=written["format"],
        kind="soft targets",
        key=written["fingerprint"],
        files={part["path"]: part["sha256"] for part in written["parts"]} if written["complete"] else {},
    )


def _network_before_kinds(written: Mapping[str, Any]) -> Record:
    """The record of a trained network in formats 1 and 2."""
    return Record(
        format=format_of(written),
        kind="network",
        key=written["fingerprint"],
        files={"model.safetensors": written["sha256"]},
        what=written.get("inputs", {}),
        versions=written.get("versions", {}),
        facts={"history": written["history"]},
    )


def _model_before_kinds(written: Mapping[str, Any]) -> Record:
    """The record of the exported student in format 1."""
    facts = {name: written[name] for name in ("student", "weights", "inputs", "classes")}
    return Record(format=1, kind="student model", key=written["key"], files=written["files"], facts=facts)


NETWORK = Kind("network", 3, {1: _network_before_kinds, 2: _network_before_kinds})
"""A trained network: member, baseline or student."""
PREDICTIONS = Kind("predictions", 2)
"""What one system predicts for one split. Format 1 was a file of torch without a record, and is not read."""
LOGITS = Kind("logits", 2, self_checked=True)
"""The logits of one member for the transfer set."""
SOFT_TARGETS = Kind("soft targets", 2, {2: _manifest}, self_checked=True)
"""A store of soft targets. In format 1 `example_id` counted the transfer set, after validation was drawn."""
STUDENT_MODEL = Kind("student model", 2, {1: _model_before_kinds})
"""The student as a model for MLflow."""
KINDS = {kind.name: kind for kind in (NETWORK, PREDICTIONS, LOGITS, SOFT_TARGETS, STUDENT_MODEL)}
