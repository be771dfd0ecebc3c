"""Records which files user code opens, by an audit hook of the interpreter (PEP 578).

Libraries that open files in C or Rust without Python's `open` raise no audit event. The user lists such files in
`data.depends_on`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from workers.user_code.origins import is_users


@dataclass(eq=False)
class Record:
    """The user's files that one piece of user code opened, as absolute paths."""

    opened: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    """Files of modules that were imported by a name computed at run time, whether or not they were loaded before."""
    written: set[str] = field(default_factory=set)

    def read(self) -> set[Path]:
        """The files that were read, not written, and still exist; including sources of modules."""
        return {Path(path) for path in self.opened - self.written if os.path.isfile(path)}


class _Thread(threading.local):
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.outside: frozenset[FrameType] = frozenset()
        """Frames that were called before the first of the records began."""


_thread = _Thread()
_opened_by: defaultdict[str, set[str]] = defaultdict(set)


@contextmanager
def recording() -> Iterator[Record]:
    """Record the files that this thread opens during the block; nested blocks each have a complete record."""
    _install()
    record = Record()
    if not _thread.records:
        _thread.outside = frozenset(_calling(sys._getframe()))
    _thread.records.append(record)
    try:
        yield record
    finally:
        _thread.records.pop()
        if not _thread.records:
            _thread.outside = frozenset()


def _calling(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def imported(module: ModuleType) -> None:
    """Record that user code imported a module by a name computed at run time."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str) and is_users(file):
        for record in _thread.records:
            record.named.add(file)


def opened_by(source: str) -> set[Path]:
    """The files that code of one source file has opened within any recording in this process."""
    return {Path(path) for path in _opened_by[source] if os.path.isfile(path)}


@cache
def _install() -> None:
    sys.addaudithook(_hear)  # once per process, since a hook cannot be removed


def _hear(event: str, arguments: tuple[Any, ...], thread: _Thread = _thread) -> None:  # the hook outlives globals
    if event not in ("open", "sqlite3.connect") or not thread.records:
        return
    records, thread.records = thread.records, []  # the code below may open files itself
    try:
        path, writes = _file(*arguments) if event == "open" else _file(arguments[0], "r", 0)
        if path is None or not is_users(path):
            return
        source = _on_behalf_of(sys._getframe(1), thread.outside)
        if source is None:
            return
        if not writes:
            _opened_by[source].add(path)
        for record in records:
            record.opened.add(path)
            if writes:
                record.written.add(path)
    finally:
        thread.records = records


def _file(path: Any, mode: Any, flags: Any) -> tuple[str | None, bool]:
    """The absolute path of an opened file, with bytecode mapped to its source, and whether it is opened for writing."""
    if not isinstance(path, (str, bytes, os.PathLike)):  # a descriptor
        return None, False
    name = os.path.abspath(os.fsdecode(path))
    if name.endswith(".pyc"):
        try:
            name = importlib.util.source_from_cache(name)
        except ValueError:
            return None, False
    changes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & os.O_ACCMODE != 0
    return name, bool(changes)


def _on_behalf_of(frame: FrameType | None, outside: frozenset[FrameType]) -> str | None:
    """The user's source file whose code opens a file; None during the import of a library, and where no code of the
    user has been called since the recording began: a program that calls Stillhouse opens no file of its own."""
    while frame is not None and frame not in outside:
        code = frame.f_code
        if is_users(code.co_filename):
            return code.co_filename
        if code.co_name == "<module>" and not code.co_filename.startswith("<"):
            return None
        frame = frame.f_back
    return None
