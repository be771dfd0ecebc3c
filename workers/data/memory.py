"""How much memory data may take: what a file declares is compared with it before any is asked for."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import psutil

from workers import storage
from workers.errors import RequestError

SHARE = 0.5
"""Of the memory that is available, what one file's arrays may take: a run holds them twice, as they are read and in the
shared memory of its processes."""

PIECE_BYTES = 2**24
"""Of a file that are read at a time."""
_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, limit, usage, and the name in `memory.stat` of the page cache that can be given back; versions 2 and 1."""


def available() -> int:
    """Bytes that this process can still take: the least that machine, container and `ulimit -v` leave it."""
    left = [int(psutil.virtual_memory().available)]
    for folder, limit, usage, cache in _CGROUPS:
        try:
            held = int(Path(folder, usage).read_text())
            stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            left.append(int(Path(folder, limit).read_text()) - held + int(stat.get(cache, 0)))
        except (OSError, ValueError):  # no such cgroup, or no limit ("max")
            continue
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        left.append(address_space - int(psutil.Process().memory_info().vms))
    return max(0, min(left))


def limit() -> int:
    """Bytes that one file's arrays may take."""
    return int(SHARE * available())


def require(needed: int, what: str) -> None:
    """Raise `RequestError` where `needed` bytes are more than data may take. what: the file and its arrays."""
    allowed = limit()
    if needed > allowed:
        raise _too_large(f"{what} would take {size(needed)} of memory", allowed)


def read_whole(uri: str) -> io.BytesIO:
    """A whole file in memory, decompressed where its name says so.

    Raises: `RequestError` where there is no such file, or where it takes more than data may.
    """

    def read(file: Any) -> io.BytesIO:
        require(getattr(file, "size", None) or 0, f"'{uri}'")  # a compressed file has no size
        allowed, content = limit(), io.BytesIO()
        while piece := file.read(PIECE_BYTES):
            if content.tell() + len(piece) > allowed:
                raise _too_large(f"'{uri}' takes more than {size(content.tell())} of memory once decompressed", allowed)
            content.write(piece)
        content.seek(0)
        return content

    return storage.read_with(uri, read)


def _too_large(found: str, allowed: int) -> RequestError:
    return RequestError(
        f"{found}; expected at most {size(allowed)}, {SHARE:.0%} of what is available here. Use a machine with more "
        "memory or fewer examples, or give large arrays as an uncompressed .npz (numpy.savez), which is mapped instead "
        "of read."
    )


def size(count: int) -> str:
    """Bytes for people: `1.5 GiB`."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:,.0f} {units[0]}" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"
