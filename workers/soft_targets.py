"""The store of soft targets: Parquet parts that carry their checksum in their names, and a manifest, written last.

A store is known by its fingerprint, a hash of everything the numbers follow from: transfer set, members and their
code, temperature, rule and weights. So whatever is in its folder is right for every run that asks for it: a store
with a manifest is complete, and one without goes on from the parts that are there. A part whose content is not what
its name says is thrown away. Readable with plain pyarrow: `example_id` int64, `probabilities` fixed-size list of
float32 or float16 (softened, averaged, summing to 1), or of a large vocabulary `top_ids`, `top_probabilities` and
`tail` (`workers.top_k`).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from workers import storage, top_k_columns
from workers.errors import RunError
from workers.inputs import Index
from workers.specs import Precision
from workers.top_k import TopK, compress, entropy

logger = logging.getLogger(__name__)

SoftTargets = NDArray[Any] | TopK
"""Of n examples as they are stored: probabilities [n, K], or the largest of them."""
DTYPES = {"float16": torch.float16, "float32": torch.float32}
MANIFEST = "manifest.json"
ABANDONED = "abandoned"
PART_NAME = re.compile(r"part-(\d{6}|[1-9]\d{6,})-([0-9a-f]{16})\.parquet")
"""Six digits at least: the number, and the beginning of the sha256."""
MADE_BY = b"stillhouse.made_by"


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
    members: list[str]
    numerics: Numerics


class Manifest(BaseModel):
    """What a store holds and how it was made."""

    model_config = ConfigDict(extra="allow")

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
    """A name made from everything the soft targets follow from: 16 hex digits of a sha256."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def compressed(probabilities: Tensor, dtype: str, top_k: int | None) -> SoftTargets:
    """Soft targets as they are stored, from the mean [n, K] float32: of `dtype`, all of them or the `top_k` largest."""
    if top_k is None:
        stored: NDArray[Any] = probabilities.numpy().astype(dtype)
        return stored
    return compress(probabilities, top_k, DTYPES[dtype])


def write_part(
    folder: str, number: int, ids: Index, targets: SoftTargets, members: Sequence[str], numerics: Numerics
) -> Part:
    """Write the soft targets of the examples `ids` [n]; the file appears when it is complete."""
    if isinstance(targets, TopK):
        columns, options = top_k_columns.columns(targets), top_k_columns.WRITE_OPTIONS
    else:
        values = pa.array(targets.reshape(-1))
        columns = {"probabilities": pa.FixedSizeListArray.from_arrays(values, targets.shape[1])}
        options = PLAIN
    table = pa.table({"example_id": pa.array(ids), **columns})
    made_by = {"members": list(members), "numerics": numerics.model_dump()}
    table = table.replace_schema_metadata({MADE_BY: json.dumps(made_by, sort_keys=True).encode()})
    path, checksum = write_file(folder, number, table, options)
    return Part(path=path, rows=len(ids), sha256=checksum, **made_by)  # type: ignore[arg-type]


PLAIN: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


def write_file(folder: str, number: int, table: pa.Table, options: dict[str, Any] = PLAIN) -> tuple[str, str]:
    """Write a Parquet file that carries its checksum in its name; returns the name and the sha256."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    checksum = storage.sha256(buffer.getvalue())
    name = f"part-{number:06d}-{checksum[:16]}.parquet"
    storage.write_bytes(storage.join(folder, name), buffer.getvalue())
    return name, checksum


def files(folder: str) -> list[tuple[int, str, str]]:
    """Number, name and beginning of the checksum of each file that `write_file` made in a folder."""
    matched = [PART_NAME.fullmatch(name) for name in storage.names(folder)]
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
    """The manifest of a store; None where there is none that can be read."""
    uri = storage.join(folder, MANIFEST)
    if not storage.exists(uri):
        return None
    try:
        return Manifest.model_validate_json(storage.read_text(uri))
    except ValueError:  # not the manifest that was written, or no text at all
        return None


def abandon(folder: str) -> None:
    """Say to whoever waits for a part that none will come any more."""
    storage.write_text(storage.join(folder, ABANDONED), "")


def take_up(folder: str) -> None:
    """Parts come again: take back `abandon`."""
    storage.remove(storage.join(folder, ABANDONED))


def is_abandoned(folder: str) -> bool:
    return storage.exists(storage.join(folder, ABANDONED))


def find(folder: str, number: int, refused: Container[str] = ()) -> Part | None:
    """The part of this number, where it is there and not one of the `refused` files.

    Raises: `RunError` where it is not what its name says.
    """
    for found, name, _ in files(folder):
        if found == number and name not in refused:
            uri = storage.join(folder, name)
            raw = storage.read_bytes(uri)
            if not is_whole(name, raw):
                raise _damaged(uri)
            return _part(name, raw)
    return None


def _part(name: str, raw: bytes) -> Part:
    """What is known of a part from its file."""
    read = pq.ParquetFile(io.BytesIO(raw))
    made_by = json.loads(read.schema_arrow.metadata[MADE_BY])
    return Part(path=name, rows=read.metadata.num_rows, sha256=storage.sha256(raw), **made_by)


def salvage(folder: str) -> dict[int, Part]:
    """The whole parts in a folder by their number, each read and its checksum compared.

    Parts that are not what their names say are removed, and named in the log.
    """
    found: dict[int, Part] = {}
    for number, name, beginning in files(folder):
        uri = storage.join(folder, name)
        raw = storage.read_bytes(uri)
        if not storage.sha256(raw).startswith(beginning):
            logger.warning("soft targets '%s' are not what was written; thrown away and computed again", uri)
            storage.remove(uri)
            continue
        part = _part(name, raw)
        known = found.get(number)
        if known is not None:  # one made by survivors, and one that was to take its place
            known, part = sorted((known, part), key=lambda each: len(each.members))
            storage.remove(storage.join(folder, known.path))
        found[number] = part
    return found


@dataclass(frozen=True)
class Rows:
    """The rows of one part as they are read: `ids` [n] int64, their soft targets, `entropy` [n] float32 in nats."""

    ids: Index
    targets: SoftTargets
    entropy: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.ids.nbytes + self.targets.nbytes + self.entropy.nbytes)


def read_part(folder: str, part: Part) -> Rows:
    """One part, its checksum compared.

    Raises: `RunError` where its content is not what was written.
    """
    uri = storage.join(folder, part.path)
    raw = storage.read_bytes(uri)
    if storage.sha256(raw) != part.sha256:
        raise _damaged(uri)
    table = pq.read_table(io.BytesIO(raw))
    ids = table.column("example_id").to_numpy()
    if "top_ids" in table.column_names:
        top = top_k_columns.from_table(table)
        return Rows(ids, top, entropy(top).numpy())
    values = table.column("probabilities").combine_chunks().flatten().to_numpy().reshape(part.rows, -1)
    return Rows(ids, values, _entropy(values))


def _damaged(uri: str) -> RunError:
    return RunError(
        f"soft targets '{uri}': the checksum is not the one that was written. Run the same command again: the part is "
        "thrown away and computed anew."
    )


def _entropy(probabilities: NDArray[Any]) -> NDArray[np.float32]:
    p = np.maximum(probabilities.astype(np.float32), np.finfo(np.float32).tiny)
    entropy: NDArray[np.float32] = -np.einsum("nk,nk->n", p, np.log(p))
    return entropy
