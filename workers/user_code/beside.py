"""Loads modules that lie beside a configuration, as a private package for their folder.

`models.py` is loaded as `stillhouse_beside_<folder>_<n>.models`, a submodule of a package whose path is the folder, so
that packages and relative imports work. Its code has its own `__import__`, which resolves absolute names in this
package first, also in functions that run later. So two configurations may have modules of the same name. A user's
`queue.py` does not shadow the `queue` that torch or Ray imports. Changed code becomes a new package. No bytecode is
written beside the user's files.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import importlib
import importlib.util
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from workers.user_code import observed
from workers.user_code.origins import STILLHOUSE, claim, is_users

BESIDE = "stillhouse_beside_"
"""Prefix of the names of modules from beside a configuration."""

IMPORT_NAME = dis.opmap["IMPORT_NAME"]
Stamp = tuple[int, ...]


@dataclass(eq=False)
class Package:
    """The modules of one folder, in the version that was loaded."""

    name: str
    folder: str
    importable: frozenset[str]
    """The modules and packages in the folder when this package was created."""
    stamps: dict[Path, Stamp] = field(default_factory=dict)
    """The source files of its modules, and the files that these read on import."""
    known: dict[str, bool] = field(default_factory=dict)

    def own(self, name: str) -> str | None:
        """The full name in this package of a module that is imported as `name`; None where it is not in the folder."""
        top = name.partition(".")[0]
        if top not in self.known:
            self.known[top] = holds(self.folder, top)
        return f"{self.name}.{name}" if self.known[top] else None

    def is_current(self) -> bool:
        """Whether the folder still has the files that this package was loaded from."""
        return self.importable == importable(self.folder) and all(
            stamp(path) == seen for path, seen in self.stamps.items()
        )


class _Thread(threading.local):
    def __init__(self) -> None:
        self.fresh: dict[str, Package] = {}


_thread = _Thread()
_packages: dict[str, Package] = {}
_current: dict[str, Package] = {}
_outside: dict[str, dict[Path, Stamp]] = {}
"""The user's modules that Python's own import loaded for user code, with their source files."""
_count = itertools.count()
_quiet, _quiet_lock = [0, False], threading.Lock()


def holds(folder: str, name: str) -> bool:
    """Whether code in `folder` finds the top-level module of the dotted `name` in that folder.

    As in Python, a folder without `__init__.py` is a package only where no other module has its name.
    """
    top = name.partition(".")[0]
    if not folder or top in sys.builtin_module_names:
        return False
    spec = PathFinder.find_spec(top, [folder])
    if spec is None or spec.origin is not None:
        return spec is not None
    if not any(Path(folder, top).glob("**/*.py")):
        return False
    other = None if top in STILLHOUSE else elsewhere(top)
    return other is None or other.origin is None


def elsewhere(top: str, path: Sequence[str] | None = None) -> ModuleSpec | None:
    """The spec with which Python itself finds a top-level module, on `path` (default: `sys.path`) or elsewhere."""
    found = None
    for finder in sys.meta_path:
        if found is None and not isinstance(finder, (_Inside, _Fallback)) and hasattr(finder, "find_spec"):
            found = finder.find_spec(top, path if finder is PathFinder else None)
    return found


def load(name: str, folder: str) -> ModuleType:
    """Load the module `name` of `folder`, in the folder's current version."""
    importlib.invalidate_caches()
    package = of(folder)
    return importlib.import_module(f"{package.name}.{name}")


def of(folder: str) -> Package:
    """The package of a folder; a new one where the code has changed."""
    folder = os.path.abspath(folder)
    if folder in _thread.fresh:
        return _thread.fresh[folder]
    package = _current.get(folder)
    if package is None or not package.is_current():
        package = _current[folder] = _new(folder)
    return package


@contextmanager
def fresh(folder: str) -> Iterator[None]:
    """Reload every module of `folder` for this thread during the block, so that import-time file access is recorded."""
    folder = os.path.abspath(folder)
    package = _thread.fresh[folder] = _new(folder)
    try:
        yield
    finally:
        del _thread.fresh[folder], _packages[package.name]
        for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
            del sys.modules[name]


@contextmanager
def running(folder: str) -> Iterator[None]:
    """A context for running user code of `folder`, whose files are the user's. It disables bytecode, and at its end
    removes from `sys.modules` the folder's modules whose names another configuration could use as well."""
    if folder:
        claim(folder)
    _refresh_outside()
    known = set(sys.modules)
    with _quiet_lock:
        if not _quiet[0]:
            _quiet[1], sys.dont_write_bytecode = sys.dont_write_bytecode, True
        _quiet[0] += 1
    try:
        with observed.recording():
            yield
    finally:
        with _quiet_lock:
            _quiet[0] -= 1
            if not _quiet[0]:
                sys.dont_write_bytecode = bool(_quiet[1])
        _forget(os.path.abspath(folder) if folder else "", known)


def plain(text: str) -> str:
    """A message or name with the user's own module names; the folder itself is `.`, as in a relative import."""
    package = rf"{BESIDE}[0-9a-f]+_\d+"
    return re.sub(package, ".", re.sub(rf"{package}\.", "", text))


def stamp(path: Path) -> Stamp:
    """Times, size and inode, which change with a file; empty where the file does not exist."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _new(folder: str) -> Package:
    name = f"{BESIDE}{hashlib.sha256(folder.encode()).hexdigest()[:12]}_{next(_count)}"
    package = _packages[name] = Package(name, folder, importable(folder))
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [folder]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    by_value(package.name)
    return package


def by_value(module: str) -> None:
    """Pickle classes and functions of a module by value where Ray is in use, since other processes lack the module."""
    cloudpickle = sys.modules.get("ray.cloudpickle")
    if cloudpickle is not None:
        cloudpickle.register_pickle_by_value(sys.modules[module])


def importable(folder: str) -> frozenset[str]:
    """The names of the module files and packages in a folder."""
    try:
        return frozenset(
            entry.name
            for entry in os.scandir(folder)
            if entry.name.endswith(".py") or os.path.isfile(os.path.join(entry.path, "__init__.py"))
        )
    except OSError:
        return frozenset()


class _Loader(SourceFileLoader):
    """Loads source in a private package, with that package's `__import__` and without bytecode caches."""

    def __reduce__(self) -> tuple[Any, ...]:  # processes without Stillhouse unpickle modules, too
        return SourceFileLoader, (self.name, self.path)

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        package = _packages[module.__name__.partition(".")[0]]
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _Importer(package)}
        with observed.recording() as record:
            super().exec_module(module)
        for path in {Path(self.path), *record.read()}:
            package.stamps.setdefault(path, stamp(path))


class _Importer:
    """The `__import__` of code in a private package."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.importlib = _Importlib(package)

    def __call__(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> ModuleType:
        own = self.package.own(name) if level == 0 else None
        if own is None:
            found = builtins.__import__(name, globals, locals, fromlist or (), level)
            return self.importlib if found is importlib else found
        found = importlib.import_module(own)
        if fromlist:
            found = builtins.__import__(own, globals, locals, fromlist, 0)  # which may import submodules as well
        if not _is_at_import(sys._getframe(1)):  # a call, whose module name the import graph lacks
            for module in (own, *(f"{own}.{each}" for each in fromlist or ())):
                observed.imported(sys.modules.get(module, found))
        return found if fromlist else sys.modules[f"{self.package.name}.{name.partition('.')[0]}"]


class _Importlib(ModuleType):
    """The `importlib` of code in a private package: `import_module` finds that package's modules."""

    def __init__(self, package: Package) -> None:
        super().__init__("importlib")
        self._package = package

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """`importlib.import_module`."""
        full = importlib.util.resolve_name(name, package) if name.startswith(".") else self._package.own(name) or name
        module = importlib.import_module(full)
        observed.imported(module)
        return module


class _Inside:
    """Finds the submodules of private packages, also under a parent that is known by its plain name."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The protocol of `sys.meta_path`."""
        parent, _, last = name.rpartition(".")
        if not parent or path is None:
            return None
        if name.partition(".")[0] in _packages:
            spec = PathFinder.find_spec(name, path)
            if spec is not None and type(spec.loader) is SourceFileLoader and spec.origin is not None:
                spec.loader = _Loader(name, spec.origin)
            return spec
        private = getattr(sys.modules.get(parent), "__name__", parent)
        if private == parent or private.partition(".")[0] not in _packages:
            return None
        return ModuleSpec(name, _Alias(f"{private}.{last}")) if PathFinder.find_spec(name, path) else None


class _Fallback:
    """Finds modules of a private package by their plain names: for libraries that get module names, and for code that
    was unpickled by value. Libraries' own import statements do not use it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The protocol of `sys.meta_path`."""
        package = None if path is not None else _calling()
        own = None if package is None else package.own(name)
        return None if own is None else ModuleSpec(name, _Alias(own))


class _Alias(Loader):
    """Returns a module that has another name in a private package."""

    def __init__(self, own: str) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The protocol of loaders."""
        module = importlib.import_module(self.own)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The protocol of loaders."""
        module.__spec__ = self.spec


def _calling() -> Package | None:
    """The package whose code requested the current import; None for other code."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None or (_is_at_import(frame) and not is_users(frame.f_code.co_filename)):
        return None
    while frame is not None:
        name, file = frame.f_globals.get("__name__"), frame.f_globals.get("__file__")
        if isinstance(name, str) and name.startswith(BESIDE):
            top, *inner = name.split(".")
            if top in _packages:
                return _packages[top]
            if isinstance(file, str):  # unpickled by value
                depth = len(inner) + (Path(file).name == "__init__.py")
                return of(str(Path(file).parents[depth - 1]))
        frame = frame.f_back
    return None


def _is_at_import(frame: FrameType) -> bool:
    """Whether a frame currently executes an import statement."""
    return frame.f_code.co_code[frame.f_lasti] == IMPORT_NAME


def _forget(folder: str, known: set[str]) -> None:
    for name in set(sys.modules) - known:
        module = sys.modules[name]
        file = getattr(module, "__file__", None)
        if name.startswith((BESIDE, "__")) or not isinstance(file, str) or not is_users(file):
            continue
        if getattr(module, "__name__", name).startswith(BESIDE) or (
            folder and Path(file).is_relative_to(folder) and elsewhere(name.partition(".")[0]) is None
        ):
            del sys.modules[name]
        else:
            _outside[name] = {path: stamp(path) for path in (Path(file), *observed.opened_by(file))}


def _refresh_outside() -> None:
    """Remove the user's modules on PYTHONPATH from `sys.modules` where one has changed since user code imported it."""
    if all(stamp(path) == seen for stamps in _outside.values() for path, seen in stamps.items()):
        return
    for name in _outside:
        sys.modules.pop(name, None)
    _outside.clear()
    _current.clear()


sys.meta_path.insert(0, _Inside())
sys.meta_path.append(_Fallback())  # at import, since code by value may arrive before any package exists
