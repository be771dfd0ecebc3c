"""The store of soft targets: Parquet parts that carry their checksum in their names, and a manifest, written last.

A store is identified by its key (`workers.artifacts.key`), a hash of everything that determines the numbers: transfer
set, members and their code, temperature, rule and weights. The manifest calls it `fingerprint`. So the parts in the
folder are valid for every run with that key. A store with a manifest is complete; without one, the pass resumes from
the existing parts. A part whose content does not match the checksum in its name is discarded.

Readable with plain pyarrow: `example_id` int64, `probabilities` fixed-size list of float32 or float16 (softened,
averaged, summing to 1), or for a large vocabulary `top_ids`, `top_probabilities` and `tail` (`workers.targets.top_k`).
`example_id` is the row in the user's data (`workers.data.numbering`). With several views, or masked copies, there is a
column `view` int16; where elements of an example have their own distributions, a column `position` int32. The order
of a part's rows is that of `PartLayout.ids`, by which readers in a run identify them.

Every key includes `FORMAT`. So a store of an older or newer format has another key, and is never mistaken for this one.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from workers import storage
from workers.artifacts import parts
from workers.artifacts import store as artifacts
from workers.artifacts.kinds import SOFT_TARGETS, format_of
from workers.data.arrays import Index
from workers.data.numbering import RowNames
from workers.errors import RunError
from workers.specs.base import Precision
from workers.targets import kinds
from workers.targets.base import Columns, Targets

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ABANDONED = "abandoned"
MADE_BY = b"stillhouse.made_by"
FORMAT = SOFT_TARGETS.version
"""Version of the file format of a store."""


class DamagedPart(RunError):
    """The content of a part does not match its checksum."""


class MemberRecord(BaseModel):
    """A member in the manifest: its name, and the sha256 of its weights file."""

    name: str
    sha256: str


class Numerics(BaseModel):
    """Settings, besides members and rule, that affect the last bits. Resumed runs keep them; each part records them."""

    model_config = ConfigDict(frozen=True)

    device: str
    """`cpu` or `cuda`."""
    precision: Precision
    """`auto`: unknown, of a GPU in an earlier version of Stillhouse."""
    threads: int
    """Threads of each actor."""
    micro_batch: int
    """Examples per forward pass."""
    bits: Literal[32, 64] = 32
    """Bits of the fixed point in which members' contributions are added (`ensemble`)."""
    stacked: bool | None = None
    """Whether one forward pass computes all members of an actor; None: not yet known."""

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, given: Any) -> Any:
        """`auto` on a CPU, which plans and earlier versions of Stillhouse write, is float32."""
        if isinstance(given, dict) and (given.get("device"), given.get("precision")) == ("cpu", "auto"):
            return {**given, "precision": "float32"}
        return given


class Part(BaseModel):
    """One Parquet file: its path, rows and checksum, the members in it, and the numerics of its computation."""

    path: str
    rows: int
    sha256: str
    size: int = 0
    """Bytes of the file."""
    members: list[str]
    numerics: Numerics


class PartFile(NamedTuple):
    """A part known only by its file name: `sha256` is the beginning of the checksum."""

    path: str
    sha256: str


class Manifest(BaseModel):
    """The contents of a store, and the settings of its computation."""

    model_config = ConfigDict(extra="allow")

    format: int = FORMAT
    fingerprint: str
    """Digest of the store's key."""
    what: dict[str, str] = {}
    """The inputs of the key, by dotted names, without credentials."""
    temperature: float
    combine: str
    weights: list[float]
    classes: int
    dtype: str
    top_k: int | None
    examples: int
    views: int
    members: list[MemberRecord]
    parts: list[Part]
    seconds: float
    """Time from the first request to a teacher to the last part written, without the start of the teachers."""
    complete: bool

    @property
    def names(self) -> list[str]:
        """The names of the members that a complete part has."""
        return [member.name for member in self.members]

    def missing_members(self) -> list[str]:
        """Members that are missing from at least one part."""
        return [name for name in self.names if any(name not in part.members for part in self.parts)]


def content(of_parts: Iterable[Part]) -> str:
    """sha256 over the checksums of all parts."""
    return storage.sha256("".join(part.sha256 for part in of_parts).encode())


def write_part(
    folder: str,
    number: int,
    names: RowNames,
    targets: Targets,
    *,
    members: Sequence[str],
    numerics: Numerics,
) -> Part:
    """Write soft targets [P]. names: identify the rows. The file becomes visible only when it is complete."""
    kind = kinds.KINDS[targets.kind]
    table = pa.table({**names.columns, **kind.columns(targets)})
    made_by = {"members": list(members), "numerics": numerics.model_dump()}
    table = table.replace_schema_metadata({MADE_BY: json.dumps(made_by, sort_keys=True).encode()})
    path, checksum, size = parts.write_file(folder, number, table, kind.options)
    return Part(path=path, rows=len(names), sha256=checksum, size=size, **made_by)  # type: ignore[arg-type]


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Write the manifest, which alone marks a store as complete."""
    storage.write_text(storage.join(folder, MANIFEST), manifest.model_dump_json(indent=2) + "\n")


def remove_manifest(folder: str) -> None:
    """Mark the store as incomplete."""
    storage.remove(storage.join(folder, MANIFEST))


def manifest_at(folder: str) -> Manifest | None:
    """The manifest of a store; None where it is missing, damaged or of an older format.

    Raises: `RequestError` where a newer version of Stillhouse wrote it.
    """
    written = _written(folder)
    try:
        return Manifest.model_validate(written) if written is not None and format_of(written) == FORMAT else None
    except ValueError:  # a damaged manifest
        return None


def _written(folder: str) -> dict[str, Any] | None:
    """The manifest of a store as JSON; None where there is none."""
    uri = storage.join(folder, MANIFEST)
    try:
        written = json.loads(storage.read_if_there(uri) or b"null")
    except ValueError:  # truncated, or not text
        return None
    if not isinstance(written, dict):
        return None
    artifacts.check_format(uri, written, FORMAT)
    return written


def _discard_older(folder: str) -> None:
    """Remove a store whose manifest has an older format, since its parts have another meaning."""
    written = _written(folder)
    if written is None or format_of(written) >= FORMAT:
        return
    logger.warning(
        "soft targets in '%s' have format %d, and this version of Stillhouse reads %d: thrown away and computed again",
        folder,
        format_of(written),
        FORMAT,
    )
    storage.remove_files(folder, [MANIFEST, *(name for _, name, _ in parts.files(folder))])


def abandon(folder: str) -> None:
    """Signal to waiting workers that the teachers will write no further part."""
    storage.write_text(storage.join(folder, ABANDONED), "")


def unmark_abandoned(folder: str) -> None:
    """Remove the mark of `abandon`, since the teachers compute parts again."""
    storage.remove(storage.join(folder, ABANDONED))


def listed(folder: str, refused: Container[str] = ()) -> tuple[dict[int, PartFile], bool]:
    """The parts in a folder except the `refused` files, and whether the folder is abandoned.

    Reads no file; makes one call to the storage.
    """
    found = storage.names(folder)
    whole = {number: PartFile(name, beginning) for number, name, beginning in parts.named(found) if name not in refused}
    return whole, ABANDONED in found


def _part(name: str, raw: bytes) -> Part:
    """The record of a part, from its file."""
    read = pq.ParquetFile(io.BytesIO(raw))
    made_by = json.loads(read.schema_arrow.metadata[MADE_BY])
    checksum = storage.sha256(raw)
    return Part(path=name, rows=read.metadata.num_rows, sha256=checksum, size=len(raw), **made_by)


def salvage(folder: str) -> dict[int, Part]:
    """Recover the intact parts in a folder, by number (`workers.artifacts.store.recover`).

    It does not verify parts that a complete manifest lists with the same size; their readers do. It removes and logs
    parts whose content does not match their names. Of two parts with one number it keeps that with more members, of
    equal ones that of the manifest, so that a store is not mixed with another.
    """
    _discard_older(folder)
    manifest = manifest_at(folder)
    of_manifest = {part.path: part for part in manifest.parts} if manifest is not None and manifest.complete else {}
    sizes = {name: part.size for name, part in of_manifest.items()}
    whole = artifacts.recover(storage.join(folder, MANIFEST), SOFT_TARGETS, sizes, _part)
    found: dict[int, Part] = {}
    for number, name, _ in parts.named(whole):
        part = whole[name] or of_manifest[name]
        known = found.get(number)
        if known is not None:  # a part without a lost member, or of a store that a complete one was copied over
            known, part = sorted((known, part), key=lambda each: (len(each.members), each.path in of_manifest))
            storage.remove(storage.join(folder, known.path))
        found[number] = part
    return found


@dataclass(frozen=True)
class Rows:
    """The rows of one part: `ids` [P] int64, soft targets, `entropy` [P] float32 in nats.

    For a file, `ids` is its `example_id`. A student's loader identifies its examples by the layout instead.
    """

    ids: Index
    targets: Columns
    entropy: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.ids.nbytes + self.targets.nbytes + self.entropy.nbytes)


def read_part(folder: str, part: Part | PartFile, temperature: float = 1.0) -> Rows:
    """Read one part and verify its checksum. temperature: T of the store's soft targets.

    Raises: `DamagedPart` where the content does not match the checksum.
    """
    uri = storage.join(folder, part.path)
    raw = storage.read_bytes(uri)
    if not storage.sha256(raw).startswith(part.sha256):
        raise DamagedPart(
            f"soft targets '{uri}': the checksum is not the one that was written. Run the same command again: the part "
            "is thrown away and computed anew."
        )
    table = pq.read_table(io.BytesIO(raw))
    targets = kinds.read(table, temperature)
    return Rows(table.column("example_id").to_numpy(), targets, targets.entropy().numpy())
