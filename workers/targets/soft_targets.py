"""The store of soft targets: Parquet parts that carry their checksum in their names, and a manifest, written last.

A store is known by its fingerprint, a hash of everything the numbers follow from: transfer set, members and their
code, temperature, rule and weights. So whatever is in its folder is right for every run that asks for it: a store
with a manifest is complete, and one without goes on from the parts that are there. A part whose content is not what
its name says is thrown away. Readable with plain pyarrow: `example_id` int64, `probabilities` fixed-size list of
float32 or float16 (softened, averaged, summing to 1), or of a large vocabulary `top_ids`, `top_probabilities` and
`tail` (`workers.targets.top_k`). `example_id` is the row as the user gave it (`workers.data.numbering`), and `view`
int16 beside it where there are several. The order of a part's rows is that of `PartLayout.ids`, by which readers in a
run know them.

Every fingerprint includes `FORMAT`. So a store of an older or newer format is another store, never taken for this one.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from workers import storage
from workers.data.arrays import Index
from workers.errors import RunError
from workers.specs import Precision
from workers.targets import kinds
from workers.targets.base import Columns, Targets
from workers.targets.kinds import PLAIN

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ABANDONED = "abandoned"
PART_NAME = re.compile(r"part-(\d{6}|[1-9]\d{6,})-([0-9a-f]{16})\.parquet")
"""Six digits at least: the number, and the beginning of the sha256."""
MADE_BY = b"stillhouse.made_by"
FORMAT = 2
"""Version of what files in a store mean. 1: `example_id` counted the transfer set, after validation was drawn."""


READ_AT_ONCE = 8
"""Parts that are read at a time where all are to be compared with their checksums."""


class DamagedPart(RunError):
    """A part is not what was written."""


class MemberRecord(BaseModel):
    """A member as the store knows it: its name, and the sha256 of its weights file."""

    name: str
    sha256: str


class Numerics(BaseModel):
    """What the last bits depend on besides members and rule: kept when a run resumes, and on record for each part."""

    model_config = ConfigDict(frozen=True)

    device: str
    """`cpu` or `cuda`."""
    precision: Precision
    threads: int
    """Of each actor."""
    micro_batch: int
    """Examples a forward pass."""
    bits: Literal[32, 64] = 32
    """Of the fixed point that members' contributions are added in (`ensemble`)."""
    stacked: bool | None = None
    """Whether members that share an actor are computed in one pass; None: not yet known."""


class Part(BaseModel):
    """One Parquet file: where, how many rows, its checksum, the members that made it, and how."""

    path: str
    rows: int
    sha256: str
    size: int = 0
    """Bytes of the file."""
    members: list[str]
    numerics: Numerics


class PartFile(NamedTuple):
    """A part as its name shows it: `sha256` is the beginning of the checksum."""

    path: str
    sha256: str


class Manifest(BaseModel):
    """What a store holds and how it was made."""

    model_config = ConfigDict(extra="allow")

    format: int = FORMAT
    fingerprint: str
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
    """From the first chunk asked to the last part written, teachers already up."""
    complete: bool

    def missing_members(self) -> list[str]:
        """Members that some part was made without."""
        return [m.name for m in self.members if any(m.name not in part.members for part in self.parts)]


def content(parts: Iterable[Part]) -> str:
    """sha256 over the checksums of all parts."""
    return storage.sha256("".join(part.sha256 for part in parts).encode())


def fingerprint(**what: Any) -> str:
    """A name made from the format and everything the soft targets follow from: 16 hex digits of a sha256."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **what}, sort_keys=True).encode()).hexdigest()[:16]


def write_part(
    folder: str,
    number: int,
    ids: Index,
    targets: Targets,
    members: Sequence[str],
    numerics: Numerics,
    views: NDArray[np.int16] | None = None,
) -> Part:
    """Write the soft targets of the examples `ids` [n] as they were given, in `views` [n] where there are several.

    The file appears when it is complete.
    """
    kind = kinds.KINDS[targets.kind]
    table = pa.table({**id_columns(ids, views), **kind.columns(targets)})
    made_by = {"members": list(members), "numerics": numerics.model_dump()}
    table = table.replace_schema_metadata({MADE_BY: json.dumps(made_by, sort_keys=True).encode()})
    path, checksum, size = write_file(folder, number, table, kind.options)
    return Part(path=path, rows=len(ids), sha256=checksum, size=size, **made_by)  # type: ignore[arg-type]


def id_columns(ids: Index, views: NDArray[np.int16] | None) -> dict[str, pa.Array]:
    """The columns that say which example, as it was given, and which view of it a row is of."""
    return {"example_id": pa.array(ids), **({} if views is None else {"view": pa.array(views)})}


def write_file(folder: str, number: int, table: pa.Table, options: dict[str, Any] = PLAIN) -> tuple[str, str, int]:
    """Write a Parquet file that carries its checksum in its name; returns the name, the sha256 and the bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    checksum = storage.sha256(buffer.getvalue())
    name = f"part-{number:06d}-{checksum[:16]}.parquet"
    storage.write_bytes(storage.join(folder, name), buffer.getvalue())
    return name, checksum, buffer.tell()


def files(folder: str) -> list[tuple[int, str, str]]:
    """Number, name and beginning of the checksum of each file that `write_file` made in a folder."""
    return named(storage.names(folder))


def named(names: Iterable[str]) -> list[tuple[int, str, str]]:
    """The same of those of the names that `write_file` gave."""
    matched = [PART_NAME.fullmatch(name) for name in names]
    return [(int(found[1]), found[0], found[2]) for found in matched if found]


def is_whole(name: str, content: bytes) -> bool:
    """Whether the content is what `write_file` named."""
    matched = PART_NAME.fullmatch(name)
    return matched is not None and storage.sha256(content).startswith(matched[2])


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Declare the store complete. Nothing that is written before says so."""
    storage.write_text(storage.join(folder, MANIFEST), manifest.model_dump_json(indent=2) + "\n")


def remove_manifest(folder: str) -> None:
    """Declare the store incomplete."""
    storage.remove(storage.join(folder, MANIFEST))


def manifest_at(folder: str) -> Manifest | None:
    """The manifest of a store; None where there is none of this format that can be read."""
    uri = storage.join(folder, MANIFEST)
    if not storage.exists(uri):
        return None
    try:
        written = json.loads(storage.read_text(uri))
        return Manifest.model_validate(written) if written["format"] == FORMAT else None
    except (ValueError, LookupError, TypeError):  # not the manifest that was written, or no text at all
        return None


def abandon(folder: str) -> None:
    """Say to whoever waits for a part that none will come any more."""
    storage.write_text(storage.join(folder, ABANDONED), "")


def take_up(folder: str) -> None:
    """Parts come again: take back `abandon`."""
    storage.remove(storage.join(folder, ABANDONED))


def there(folder: str, refused: Container[str] = ()) -> tuple[dict[int, PartFile], bool]:
    """The parts that are in a folder by now, but for the `refused` files, and whether it is abandoned; none is read.

    One call to the storage.
    """
    found = storage.names(folder)
    parts = {number: PartFile(name, beginning) for number, name, beginning in named(found) if name not in refused}
    return parts, ABANDONED in found


def _part(name: str, raw: bytes) -> Part:
    """What is known of a part from its file."""
    read = pq.ParquetFile(io.BytesIO(raw))
    made_by = json.loads(read.schema_arrow.metadata[MADE_BY])
    checksum = storage.sha256(raw)
    return Part(path=name, rows=read.metadata.num_rows, sha256=checksum, size=len(raw), **made_by)


def salvage(folder: str) -> dict[int, Part]:
    """The whole parts in a folder by their number.

    What a complete manifest vouches for is not read here, and compared with its checksum where it is read: files of
    the size that was written, not changed since the manifest was. Others are read, several at a time. Parts that are
    not what their names say are removed, and named in the log.
    """
    listed = {entry.name: entry for entry in storage.entries(folder)}
    vouched = _vouched(folder, listed)
    numbers = {name: number for number, name, _ in named(listed)}
    unread = [name for name in numbers if name not in vouched]
    with ThreadPoolExecutor(READ_AT_ONCE) as threads:
        read = dict(zip(unread, threads.map(lambda name: _verified(folder, name), unread), strict=True))
    found: dict[int, Part] = {}
    for name, number in numbers.items():
        part = vouched[name] if name in vouched else read[name]
        known = found.get(number)
        if part is not None and known is not None:  # one made by survivors, and one that was to take its place
            known, part = sorted((known, part), key=lambda each: len(each.members))
            storage.remove(storage.join(folder, known.path))
        if part is not None:
            found[number] = part
    return found


def _vouched(folder: str, listed: Mapping[str, storage.Entry]) -> dict[str, Part]:
    """The parts of a complete manifest whose files are as they were when it was written, as far as a listing shows."""
    manifest = manifest_at(folder) if MANIFEST in listed else None
    if manifest is None or not manifest.complete:
        return {}
    sealed = listed[MANIFEST].changed

    def is_as_it_was(part: Part) -> bool:
        entry = listed.get(part.path)
        if entry is None or entry.size != part.size:
            return False
        return sealed is None or entry.changed is None or entry.changed <= sealed

    return {part.path: part for part in manifest.parts if is_as_it_was(part)}


def _verified(folder: str, name: str) -> Part | None:
    """A part that is read and compared with its name; None where it had to be removed."""
    uri = storage.join(folder, name)
    raw = storage.read_bytes(uri)
    if is_whole(name, raw):
        return _part(name, raw)
    logger.warning("soft targets '%s' are not what was written; thrown away and computed again", uri)
    storage.remove(uri)
    return None


@dataclass(frozen=True)
class Rows:
    """The rows of one part as they are read: `ids` [n] int64, their soft targets, `entropy` [n] float32 in nats.

    From a file `ids` are its `example_id`. A student's loader puts those of the transfer set in their place.
    """

    ids: Index
    targets: Columns
    entropy: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.ids.nbytes + self.targets.nbytes + self.entropy.nbytes)


def read_part(folder: str, part: Part | PartFile, temperature: float = 1.0) -> Rows:
    """One part, its checksum compared. temperature: the store's, which its targets then carry.

    Raises: `DamagedPart` where its content is not what was written.
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
