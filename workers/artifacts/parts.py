"""Parquet files that carry their number and their checksum in their names.

Such a file is known to be whole without a record, so a killed run leaves nothing that has to be computed again but the
file that it was writing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from workers import storage

if TYPE_CHECKING:
    import pyarrow as pa

NAME = re.compile(r"part-(\d{6}|[1-9]\d{6,})-([0-9a-f]{16})\.parquet")
"""Six digits at least: the number, and the beginning of the sha256."""
PLAIN: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
"""Options of pyarrow for columns of floats."""


def write_file(folder: str, number: int, table: pa.Table, options: dict[str, Any] = PLAIN) -> tuple[str, str, int]:
    """Write a Parquet file that carries its checksum in its name; returns the name, the sha256 and the bytes."""
    import pyarrow.parquet as pq  # slow; the command needs the names alone

    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    checksum = storage.sha256(buffer.getvalue())
    name = f"part-{number:06d}-{checksum[:16]}.parquet"
    storage.write_bytes(storage.join(folder, name), buffer.getvalue())
    return name, checksum, buffer.tell()


def files(folder: str) -> list[tuple[int, str, str]]:
    """Number, name and beginning of the checksum of each file that `write_file` wrote into a folder."""
    return named(storage.names(folder))


def named(names: Iterable[str]) -> list[tuple[int, str, str]]:
    """The same of those of the names that `write_file` gave."""
    matched = [NAME.fullmatch(name) for name in names]
    return [(int(found[1]), found[0], found[2]) for found in matched if found]


def is_whole(name: str, content: bytes) -> bool:
    """Whether the content is what `write_file` named."""
    matched = NAME.fullmatch(name)
    return matched is not None and storage.sha256(content).startswith(matched[2])
