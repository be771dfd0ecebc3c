"""Memory-mapped files for large arrays, instead of copies in memory.

An uncompressed .npz stores arrays in their memory layout, so a process can map one and read single rows. A mapped array
(`np.memmap`, also from a data factory) is serialised within a machine as its place in the file. For other machines,
which may not have the file, it is serialised as values.

A mapped file can change during a run, and access to a truncated page kills the process with SIGBUS. So `Watched`
compares size, time and inode of each file before and after it reads rows.
"""

from __future__ import annotations

import mmap
import os
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FunctionType, ModuleType
from typing import IO, Any, TypeVar

import numpy as np

from workers.data.column import Column
from workers.errors import RunError

T = TypeVar("T")

MAPPED_FROM = 2**28
"""Smallest file size for mapping. Smaller files are copied, so that overwriting them cannot affect a run."""
LOOKED_AT = 1000
"""Elements of a list that are searched for mapped arrays, and the most opened files to watch."""
_LOCAL_HEADER = 30

State = tuple[int, int, int]
"""A file's size in bytes, time of change in nanoseconds, and inode."""
Place = tuple[str, str, int, tuple[int, ...], State]
"""Path, dtype, offset in bytes, shape, and the file's state."""


def array_in_npz(path: str, name: str) -> np.memmap[Any, Any] | None:
    """The array `name` of an .npz file, mapped; None where it is compressed, or not plain numbers in C order.

    Raises: what zipfile and numpy raise for a file that is not an .npz.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        try:
            entry = archive.getinfo(f"{name}.npy")
        except KeyError:
            return None
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")  # name and extra
        file.seek(entry.header_offset + _LOCAL_HEADER + sum(lengths))
        shape, fortran, dtype = read_header(file)
        if fortran or dtype.hasobject:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an .npy: shape, whether in Fortran order, and dtype. `file` is then at the values.

    Raises: ValueError where the file is not an .npy.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def place(array: np.memmap[Any, Any]) -> Place | np.ndarray[Any, Any]:
    """The place of a mapped array; its values where the file does not hold exactly this array.

    Values are returned for a part of an array, another memory order, or a copy-on-write array.
    """
    whole = isinstance(array.base, mmap.mmap) and array.flags.c_contiguous and array.mode != "c"
    if not whole or array.filename is None:
        return np.array(array)
    path = str(Path(array.filename).absolute())
    return path, array.dtype.str, int(array.offset), array.shape, _state(path)


def at(place: Place | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array at a place.

    Raises: `RunError` where the file has changed.
    """
    if isinstance(place, np.ndarray):
        return place
    path, dtype, offset, shape, state = place
    File(path, state).check()
    return np.memmap(path, dtype, "r", offset, shape)


@dataclass(frozen=True)
class File:
    """A mapped file with its state at the beginning of the run."""

    path: str
    state: State

    def check(self) -> None:
        """Raise `RunError` where the file has changed."""
        try:
            state = _state(self.path)
        except OSError:
            state = None
        if state == self.state:
            return
        if state is None:
            found = "is gone"
        elif state[0] != self.state[0]:
            found = f"has changed ({self.state[0]:,} bytes before, {state[0]:,} now)"
        else:
            found = "has changed (it was written to or replaced)"
        raise RunError(
            f"data file '{self.path}' {found} since this run began to read it. Run the same command again: it computes "
            "anew what follows from the file. Or put the file back first, to resume."
        )


@dataclass(frozen=True)
class Watched:
    """A column that reads mapped files, which must not change during the run.

    It pickles as the plain inputs, with values instead of mapped arrays, for other machines. Within a machine,
    `SERIALIZERS` serialise the places instead.
    """

    of: Column
    files: tuple[File, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.of.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.of.dtype

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, rows: Any, /) -> np.ndarray[Any, Any]:
        """A copy of the rows, since later access to a view would bypass the check."""
        return self.read(lambda of: np.array(of[rows]) if isinstance(rows, slice) else np.asarray(of[rows]))

    def read(self, take: Callable[[Column], T]) -> T:
        """Copy values out of the inputs with `take`, and check the files before and afterwards.

        Raises: `RunError` with the name of a changed file.
        """
        self.check()
        taken = take(self.of)
        self.check()
        return taken

    def check(self) -> None:
        for file in self.files:
            file.check()

    def __reduce__(self) -> tuple[Any, ...]:
        self.check()
        return _unwatched, (np.asarray(self.of) if isinstance(self.of, np.ndarray) else self.of,)


def watched(inputs: Column, opened: Collection[Path] = ()) -> Column:
    """Wrap inputs in `Watched` if they read mapped files: a mapped array, a part of one, or an object with some.

    opened: files that the factory opened. A lazy object may read them again.
    """
    lazy = not isinstance(inputs, np.ndarray) and len(opened) <= LOOKED_AT
    files = {str(path): File(str(path), _state(str(path))) for path in opened if lazy and path.suffix != ".py"}
    for array in _inside(inputs):
        if isinstance(array, np.memmap) and array.filename is not None:
            array.flush()  # so that the factory's own writes do not count as a change
            path = str(Path(str(array.filename)).absolute())
            if os.path.exists(path):  # a deleted file cannot be changed by name
                files[path] = File(path, _state(path))
    return Watched(inputs, tuple(files.values())) if files else inputs


def check(value: object) -> None:
    """Raise `RunError` where a file has changed that `value`, or what it holds, reads."""
    for each in _inside(value):
        if isinstance(each, Watched):
            each.check()


def _inside(value: Any, depth: int = 6) -> Iterator[Any]:
    """`value`, its base arrays, and the values of its attributes, down to `depth` levels."""
    yield value
    if depth == 0 or isinstance(value, type | FunctionType | ModuleType):
        return
    if isinstance(value, np.ndarray):
        inner: Iterable[Any] = () if value.base is None else (value.base,)
    elif isinstance(value, tuple | list):
        inner = value[:LOOKED_AT]
    elif isinstance(value, dict):
        inner = islice(value.values(), LOOKED_AT)
    else:
        inner = list(getattr(value, "__dict__", {}).values())
    for each in inner:
        yield from _inside(each, depth - 1)


def _unwatched(inputs: Column) -> Column:
    return inputs


def _apart(inputs: Watched) -> tuple[Column, tuple[File, ...]]:
    return inputs.of, inputs.files


def _together(parts: tuple[Column, tuple[File, ...]]) -> Watched:
    return Watched(*parts)


SERIALIZERS: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    np.memmap: (place, at),
    Watched: (_apart, _together),
}
"""Serialisers of mapped inputs within a machine, by class: to their places and back."""


def _state(path: str) -> State:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino
