"""The kinds of artifacts, each with the version of its format and readers for earlier formats.

A kind's version is in its keys and in its records. Increase it when the content of files or the meaning of the key
changes. Artifacts of the earlier version are then not reused, unless `readers` has a function for their records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from workers.artifacts.key import Key


class Record(BaseModel):
    """The record beside an artifact's files. It is written last, so its existence shows that the files are complete."""

    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="constants")

    format: int
    """Version of the kind's format."""
    kind: str
    key: Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]
    """Digest of the artifact's key; it becomes part of a path."""
    files: dict[str, str]
    """sha256, or its beginning, of each file by its name beside the record."""
    what: dict[str, str] = {}
    """The inputs in the key, by dotted names, without credentials."""
    versions: dict[str, str] = {}
    """Versions of the packages that computed the artifact; they do not affect reuse."""
    facts: dict[str, Any] = {}
    """Further properties of the artifact, such as a network's history."""


Reader = Callable[[Mapping[str, Any]], Record]


@dataclass(frozen=True)
class Kind:
    """A kind of artifact. `kind.key(**what)` makes its keys."""

    name: str
    version: int
    readers: Mapping[int, Reader] = field(default_factory=dict)
    """By format: a function that converts other JSON to a `Record`, such as a record of an earlier version."""
    self_checked: bool = False
    """Whether the names of its files contain checksums (`workers.artifacts.parts`), so that readers verify the files.
    Such files of a killed run are reused without a record."""

    def key(self, **what: Any) -> Key:
        return Key(self.name, self.version, **what)

    def record(self, written: Mapping[str, Any]) -> Record | None:
        """The record in the JSON `written`; None where its format is no longer supported.

        Raises: ValueError, LookupError or TypeError where the JSON is not a record.
        """
        found_format = format_of(written)
        reader = self.readers.get(found_format)
        if reader is not None:
            return reader(written)
        return Record.model_validate(written) if found_format == self.version else None


def format_of(written: Mapping[str, Any]) -> int:
    """The format of a record; 1 where it is missing, as in the first version."""
    found = written.get("format", 1)
    return found if isinstance(found, int) else 1


def _manifest(written: Mapping[str, Any]) -> Record:
    """The record in a manifest of soft targets, whose keys are a public format."""
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
"""The predictions of one system for one split. Format 1 was a torch file without a record, and is not supported."""
LOGITS = Kind("logits", 2, self_checked=True)
"""The logits of one member for the transfer set."""
TOKENS = Kind("tokens", 1, self_checked=True)
"""The tokens of the texts of one split, by one tokenizer."""
SOFT_TARGETS = Kind("soft targets", 2, {2: _manifest}, self_checked=True)
"""A store of soft targets. In format 1 `example_id` counted the transfer set, after validation was drawn."""
STUDENT_MODEL = Kind("student model", 2, {1: _model_before_kinds})
"""The student as a model for MLflow."""
KINDS = {kind.name: kind for kind in (NETWORK, PREDICTIONS, LOGITS, TOKENS, SOFT_TARGETS, STUDENT_MODEL)}
