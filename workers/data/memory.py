"""The memory limit for data: readers compare a file's declared size with it before they allocate."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import psutil

from workers import storage
from workers.errors import RequestError

SHARE = 0.5
"""Share of available memory for the arrays of one file. A run holds them twice: after reading, and in shared memory."""

PIECE_BYTES = 2**24
"""Bytes per read from a file."""
_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, limit, usage, and the key in `memory.stat` of the reclaimable page cache; cgroup versions 2 and 1."""


def available() -> int:
    """Bytes that this process can still allocate: the minimum over machine, container and `ulimit -v`."""
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
    """Raise `RequestError` where `needed` bytes exceed the limit. what: names file and arrays in the message."""
    allowed = limit()
    if needed > allowed:
        raise _too_large(f"{what} would take {size(needed)} of memory", allowed)


def read_whole(uri: str) -> io.BytesIO:
    """Read a whole file into memory, and decompress it by its suffix.

    Raises: `RequestError` where the file is missing, or exceeds the memory limit.
    """

    def read(file: Any) -> io.BytesIO:
        require(getattr(file, "size", None) or 0, f"'{uri}'")  # unknown for a compressed file
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
    """A byte count in readable form: `1.5 GiB`."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:,.0f} {units[0]}" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"
