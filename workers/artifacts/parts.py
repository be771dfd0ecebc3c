"""Parquet files with their number and their checksum in their names.

Such a file can be verified without a record. So a resumed run only recomputes the file that was incomplete when the
earlier run was killed.
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
"""The number, with at least six digits, and the beginning of the sha256."""
PLAIN: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
"""Options of pyarrow for columns of floats."""


def write_file(folder: str, number: int, table: pa.Table, options: dict[str, Any] = PLAIN) -> tuple[str, str, int]:
    """Write a Parquet file with its checksum in its name; returns the name, the sha256 and the bytes."""
    import pyarrow.parquet as pq  # here, since the import is slow and the command only needs the names

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
    """The same as `files`, for a list of names; other names are ignored."""
    matched = [NAME.fullmatch(name) for name in names]
    return [(int(found[1]), found[0], found[2]) for found in matched if found]


def is_whole(name: str, content: bytes) -> bool:
    """Whether the content matches the checksum in the name."""
    matched = NAME.fullmatch(name)
    return matched is not None and storage.sha256(content).startswith(matched[2])
