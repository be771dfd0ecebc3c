"""Large arrays read from where they lie: mapped files instead of copies in memory.

An uncompressed .npz holds its arrays byte for byte as they are in memory, so a process can map one and read the rows
that it is asked for. A mapped array (`np.memmap`, also one that a data factory returns) travels within a machine as its
place in the file; to other machines, which may not have the file, as its values.

A mapped file can change while a run lives, and touching a page that was cut off ends the process with SIGBUS. So
`Watched` compares size, time and inode of each file before rows are read from it and afterwards.
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
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from workers.errors import RunError

if TYPE_CHECKING:
    from workers.data.arrays import Column

T = TypeVar("T")

MAPPED_FROM = 2**28
"""Bytes of a file from which on it is mapped. Smaller ones are copied, so that a file that is overwritten meanwhile
changes nothing in a run."""
LOOKED_AT = 1000
"""Elements of a list in which mapped arrays are looked for."""
_LOCAL_HEADER = 30

State = tuple[int, int, int]
"""A file's size in bytes, time of change in nanoseconds, and inode."""
Place = tuple[str, str, int, tuple[int, ...], State]
"""Path, dtype, offset in bytes, shape, and the file's state."""


def array_in_npz(path: str, name: str) -> np.memmap[Any, Any] | None:
    """The array `name` of an .npz file, mapped; None where it is compressed or not of plain numbers in C order.

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
    """Shape, whether in Fortran order, and dtype of the .npy that `file` begins with, which is then at its values.

    Raises: ValueError where it is no .npy.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def place(array: np.memmap[Any, Any]) -> Place | np.ndarray[Any, Any]:
    """Where a mapped array lies; the values themselves of what the file does not hold as it is: a part of an array, one
    in another order, one that was changed in memory."""
    whole = isinstance(array.base, mmap.mmap) and array.flags.c_contiguous and array.mode != "c"
    if not whole or array.filename is None:
        return np.array(array)
    path = str(Path(array.filename).absolute())
    return path, array.dtype.str, int(array.offset), array.shape, _state(path)


def at(place: Place | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array at a place.

    Raises: `RunError` where the file is not the one that it was.
    """
    if isinstance(place, np.ndarray):
        return place
    path, dtype, offset, shape, state = place
    File(path, state).check()
    return np.memmap(path, dtype, "r", offset, shape)


@dataclass(frozen=True)
class File:
    """A mapped file as it was when the run began."""

    path: str
    state: State

    def check(self) -> None:
        """Raise `RunError` where the file is not as it was."""
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
    """Column that read mapped files, which must stay as they were.

    Pickled it is the inputs alone, with values instead of mapped arrays, as other machines need it. Within a machine
    `SERIALIZERS` keep the places.
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
        """The rows in memory of their own, since a view would be read later, unchecked."""
        return self.read(lambda of: np.array(of[rows]) if isinstance(rows, slice) else np.asarray(of[rows]))

    def read(self, take: Callable[[Column], T]) -> T:
        """What `take` copies out of the inputs, unless a file changed before or meanwhile.

        Raises: `RunError` naming the file.
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
    """The inputs, `Watched` where they read mapped files: a mapped array, a part of one, or an object that has some.

    opened: the files that their maker opened to read. An object that is no array may read them again.
    """
    lazy = not isinstance(inputs, np.ndarray) and len(opened) <= LOOKED_AT
    files = {str(path): File(str(path), _state(str(path))) for path in opened if lazy and path.suffix != ".py"}
    for array in _inside(inputs):
        if isinstance(array, np.memmap) and array.filename is not None:
            array.flush()  # what its maker wrote itself is no change
            path = str(Path(str(array.filename)).absolute())
            if os.path.exists(path):  # one without a name cannot be changed by it
                files[path] = File(path, _state(path))
    return Watched(inputs, tuple(files.values())) if files else inputs


def check(value: object) -> None:
    """Raise `RunError` where a file has changed that `value`, or what it holds, reads."""
    for each in _inside(value):
        if isinstance(each, Watched):
            each.check()


def _inside(value: Any, depth: int = 4) -> Iterator[Any]:
    """`value`, the arrays that it is a view of, and what it holds in its attributes, `depth` levels down."""
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
"""How mapped inputs travel within a machine: to their places and back, for each class."""


def _state(path: str) -> State:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino
