"""The store of soft targets: Parquet parts, each with its checksum, and a manifest that is written last.

A store is known by its fingerprint, a hash of everything the numbers follow from: transfer set, members and their
code, temperature, rule and weights. So a store that is complete is right for every run that asks for it, but for
members that were lost on the way, which each part names; and one without a manifest is not there. Readable with plain
pyarrow: `example_id` int64, `probabilities` fixed-size list of float32 (softened, averaged, summing to 1).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from workers import storage
from workers.errors import RunError

MANIFEST = "manifest.json"


class MemberRecord(BaseModel):
    """A member as the store knows it: its name, and the sha256 of its weights file."""

    name: str
    sha256: str


class Part(BaseModel):
    """One Parquet file: where, how many rows, its checksum, and the members that made it."""

    path: str
    rows: int
    sha256: str
    members: list[str]


class Manifest(BaseModel):
    """What a store holds and how it was made."""

    model_config = ConfigDict(extra="allow")

    fingerprint: str
    temperature: float
    combine: str
    weights: list[float]
    classes: int
    members: list[MemberRecord]
    parts: list[Part]
    micro_batch: int
    device: str
    """Kind of device and the threads each actor had: another kind may differ in last bits."""
    seconds: float
    """From the first chunk asked to the last part written, teachers already up."""
    complete: bool

    def missing_members(self) -> list[str]:
        """Members that some part was made without."""
        return [m.name for m in self.members if any(m.name not in part.members for part in self.parts)]

    def content(self) -> str:
        """sha256 over the checksums of all parts."""
        return storage.sha256("".join(part.sha256 for part in self.parts).encode())


def fingerprint(**what: Any) -> str:
    """A name made from everything the soft targets follow from: 16 hex digits of a sha256."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def write_part(
    folder: str, number: int, first_id: int, probabilities: NDArray[np.float32], members: Sequence[str]
) -> Part:
    """Write rows [n, K] float32 of the examples `first_id` on; the file appears when it is complete."""
    rows, classes = probabilities.shape
    table = pa.table(
        {
            "example_id": pa.array(np.arange(first_id, first_id + rows, dtype=np.int64)),
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), classes),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_statistics=False)
    content = buffer.getvalue()
    path = f"part-{number:05d}.parquet"
    storage.write_bytes(storage.join(folder, path), content)
    return Part(path=path, rows=rows, sha256=storage.sha256(content), members=list(members))


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Declare the store complete. Nothing written before counts without this."""
    storage.write_text(storage.join(folder, MANIFEST), manifest.model_dump_json(indent=2) + "\n")


def find(folder: str) -> Manifest | None:
    """The manifest of a complete store whose every part is there with its checksum, else None."""
    uri = storage.join(folder, MANIFEST)
    if not storage.exists(uri):
        return None
    try:
        manifest = Manifest.model_validate_json(storage.read_text(uri))
    except ValidationError:
        return None
    whole = manifest.complete and all(_intact(folder, part) for part in manifest.parts)
    return manifest if whole else None


def read(folder: str, manifest: Manifest) -> NDArray[np.float32]:
    """All soft targets in the order of their example ids: [N, K] float32.

    Raises: `RunError` where a part is not the one that the manifest names.
    """
    found = np.empty((sum(part.rows for part in manifest.parts), manifest.classes), np.float32)
    for part in manifest.parts:
        content = storage.read_bytes(storage.join(folder, part.path))
        if storage.sha256(content) != part.sha256:
            raise RunError(
                f"soft targets '{storage.join(folder, part.path)}': the checksum is not the manifest's. "
                "Remove the file and run again: what is missing is computed anew."
            )
        table = pq.read_table(io.BytesIO(content))
        values = table.column("probabilities").combine_chunks().flatten().to_numpy()
        found[table.column("example_id").to_numpy()] = values.reshape(part.rows, manifest.classes)
    return found


def _intact(folder: str, part: Part) -> bool:
    uri = storage.join(folder, part.path)
    return storage.exists(uri) and storage.sha256(storage.read_bytes(uri)) == part.sha256
