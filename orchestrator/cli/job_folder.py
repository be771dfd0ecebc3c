"""Packages the folder of a configuration for a job: in a subfolder, without excluded files.

Ray puts the root of a package first on the import path of the job's processes, even before the standard library. There
a user's `queue.py` would crash every worker. So the configuration's folder is one level deeper.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cluster import ray_private
from workers.errors import RequestError

NAME = "stillhouse-job"
"""A name that Python cannot import."""
LARGEST = 5
"""Most files that an error names."""
ENTRY_BYTES = 128
"""Approximate size of a file's entry in a zip, besides twice its name."""


@dataclass(frozen=True)
class JobFolder:
    """A package: the root, whose only entry links to the configuration's folder, and the excluded paths."""

    root: Path
    excludes: list[str]
    """Patterns as in .gitignore, anchored at the root."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of each packaged file, by its path in the configuration's folder."""

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@contextmanager
def prepared(folder: Path, left_out: Sequence[str], places: Sequence[Path]) -> Iterator[JobFolder]:
    """Prepare the configuration's folder for upload, for the block.

    left_out: excluded patterns, at any depth; places: excluded files and folders.
    Raises: `RequestError` where a file is unreadable, or the package is too large for Ray.
    """
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as root:
        link = Path(root, NAME)
        link.symlink_to(folder, target_is_directory=True)
        inside = [place for place in places if place.is_relative_to(folder) and place != folder]
        patterns = [*left_out, *(_pattern(link / place.relative_to(folder), link.parent) for place in inside)]
        found = _travel(JobFolder(link.parent, patterns))
        limit = ray_private.package_bytes_limit()
        if found.bytes >= limit:
            raise RequestError(too_large(folder, found, limit))
        yield found


def too_large(folder: Path, found: JobFolder, limit: int | None = None) -> str:
    """The message for a folder that is too large: its largest files, and the fix."""
    largest = sorted(found.sizes, key=lambda name: -found.sizes[name])[:LARGEST]
    names = ", ".join(f"{name} ({_mb(found.sizes[name])})" for name in largest)
    takes = "less" if limit is None else f"at most {_mb(limit)}"
    return (
        f"'{folder}' goes with the job as it holds the configuration: {_mb(found.bytes)} in {len(found.sizes)} files, "
        f"and the cluster takes {takes}. The largest: {names}. A file `.rayignore` in it names what stays behind, a "
        "pattern a line as in .gitignore. Put data that the job reads where every node finds it, a shared folder or an "
        "object store, and name it by an absolute path or URI."
    )


def _travel(sent: JobFolder) -> JobFolder:
    """The package with its files by Ray's own rules, without paths on which Ray would hang.

    Raises: `RequestError` where a file or folder in it is unreadable.
    """
    link = sent.root / NAME
    odd: list[str] = []
    is_left_out = ray_private.left_out_of_package(sent.root, sent.excludes)

    def is_odd(path: Path) -> bool:
        if path == sent.root or is_left_out(path) or not _hangs(path, link):
            return False
        odd.append(_pattern(path, sent.root))
        return True

    def count(path: Path) -> None:
        if path.is_file():
            name = path.relative_to(link).as_posix()
            sent.sizes[name] = path.stat().st_size + ENTRY_BYTES + 2 * len(os.fsencode(name))
        if not os.access(path, os.R_OK):
            unreadable.append(path)

    unreadable: list[Path] = []
    try:
        ray_private.walk_package(sent.root, [is_left_out, is_odd], count)
    except PermissionError as error:  # a folder
        unreadable.append(Path(error.filename))
    if unreadable:
        raise RequestError(
            f"'{unreadable[0].relative_to(link)}' beside the configuration cannot be read, and goes with the job. Make "
            "it readable, or name it in a file `.rayignore` beside the configuration."
        )
    return JobFolder(sent.root, [*sent.excludes, *odd], sent.sizes)


def _hangs(path: Path, link: Path) -> bool:
    """Whether Ray would hang on it: a pipe, a socket, or a link to one of its own parent folders."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return False
    except OSError:  # a link to nothing, or to itself
        return True
    if not stat.S_ISDIR(mode):
        return not stat.S_ISREG(mode)
    target = path.resolve()
    above = [parent.resolve() for parent in path.parents if parent.is_relative_to(link)]
    return path != link and any(place.is_relative_to(target) for place in [*above, link.parent.resolve()])


def _pattern(path: Path, root: Path) -> str:
    """A .gitignore pattern that matches only this path."""
    return f"/{ray_private.escaped_pattern(path.relative_to(root).as_posix())}"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e6:.2f} MB"
