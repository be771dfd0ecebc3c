"""Files with their number and their checksum in their names.

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

PARQUET = ".parquet"
NAME = re.compile(r"part-(\d{6}|[1-9]\d{6,})-([0-9a-f]{16})\.(parquet|arrow)")
"""The number, with at least six digits, and the beginning of the sha256."""
PLAIN: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
"""Options of pyarrow for columns of floats."""


def write_file(folder: str, number: int, table: pa.Table, options: dict[str, Any] = PLAIN) -> tuple[str, str, int]:
    """Write a Parquet file with its checksum in its name; returns the name, the sha256 and the bytes."""
    import pyarrow.parquet as pq  # here, since the import is slow and the command only needs the names

    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    checksum = storage.sha256(buffer.getvalue())
    name = name_of(number, checksum)
    storage.write_bytes(storage.join(folder, name), buffer.getvalue())
    return name, checksum, buffer.tell()


def name_of(number: int, checksum: str, ending: str = PARQUET) -> str:
    """The name of a file with this sha256."""
    return f"part-{number:06d}-{checksum[:16]}{ending}"


def files(folder: str, ending: str = PARQUET) -> list[tuple[int, str, str]]:
    """Number, name and beginning of the checksum of each file of this kind in a folder."""
    return named(storage.names(folder), ending)


def named(names: Iterable[str], ending: str = PARQUET) -> list[tuple[int, str, str]]:
    """The same as `files`, for a list of names; other names are ignored."""
    matched = [NAME.fullmatch(name) for name in names if name.endswith(ending)]
    return [(int(found[1]), found[0], found[2]) for found in matched if found]


def is_whole(name: str, content: bytes) -> bool:
    """Whether the content matches the checksum in the name."""
    matched = NAME.fullmatch(name)
    return matched is not None and storage.sha256(content).startswith(matched[2])
