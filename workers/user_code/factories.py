"""Factories: functions of user code, named as `module:function`.

The search order for a module:

1. beside the configuration, or in `folder:`, a key beside `factory:` and relative to the configuration;
2. where Python itself finds modules: installed, or on PYTHONPATH;
3. in the working directory of the command. It is resolved when the configuration is loaded, since other processes have
   other working directories.

A module beside the configuration may have any name: see `workers.user_code.beside`.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.errors import RequestError
from workers.specs.base import FactorySpec
from workers.user_code import beside, observed
from workers.user_code.beside import BESIDE as BESIDE
from workers.user_code.origins import HOME, STILLHOUSE, distributions

JOB_FOLDER = "STILLHOUSE_JOB_FOLDER"
"""Environment variable in the processes of a job: the folder of its configuration, relative to the job's working
folder; `processes.settle` makes it absolute."""
LONGEST_NAME = 256
"""Maximal number of characters of a text that may name a file."""


def call(factory: str, kwargs: dict[str, Any], folder: str) -> Any:
    """Call `factory` (`module:function`) with a copy of `kwargs`, which it may change.

    Raises: `RequestError` where the module or function is missing, or raises.
    """
    function = load(factory, folder)
    try:
        with beside.running(folder):
            return function(**copy.deepcopy(kwargs))
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"factory '{factory}' raised {type(error).__name__}: {beside.plain(str(error))}. "
            f"It was called with {kwargs or 'no arguments'}. Correct the function, or its `kwargs`."
        ) from error


def load(factory: str, folder: str) -> Any:
    """The function that `factory` names.

    This executes the module. Raises: `RequestError` where the module or function is missing.
    """
    module_name, _, function_name = factory.partition(":")
    module = _module(module_name, folder, factory)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise RequestError(
            f"'{factory}': module '{module_name}' ({module.__file__}) has no function or class "
            f"'{function_name}'. It has: {', '.join(sorted(names)) or 'none'}. Correct the name, or add it to the "
            f"module.{_name_taken(module_name)}"
        )
    return function


def bound(spec: FactorySpec) -> Callable[..., Any]:
    """The function that `spec` names, with a copy of its `kwargs`, which it may change.

    Raises: as `load`.
    """
    return partial(load(spec.factory, spec.folder), **copy.deepcopy(spec.kwargs))


def check_called(key: str, spec: FactorySpec, given: Sequence[str]) -> None:
    """Raise `RequestError` for a function that is not there, or cannot be called with these arguments and its kwargs.

    key: of the configuration, for the message.
    """
    function = load(spec.factory, spec.folder)
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of an extension, which shows none
        return
    try:
        signature.bind(*given, **spec.kwargs)
    except TypeError as error:
        arguments = ", ".join([*given, *(f"{name}=..." for name in spec.kwargs)])
        raise RequestError(
            f"{key}: '{spec.factory}' cannot be called with ({arguments}): {error}. Expected a function with these "
            "parameters: correct it, or its `kwargs`."
        ) from error


def working_folder() -> str:
    """The working folder of the command; in a job's processes the folder of the configuration (`processes.settle`).

    It may differ from the current directory, since Ray Train changes that of its workers.
    """
    folder = os.environ.get(JOB_FOLDER, "")
    return folder if os.path.isabs(folder) else os.getcwd()


def locate(factory: str, folder: str) -> str:
    """The folder from which every process loads `factory`: the working directory where only that has the module, else
    `folder`. Executes no code."""
    name, here = factory.partition(":")[0], working_folder()
    is_name = all(part.isidentifier() for part in name.split("."))  # invalid names are rejected by schema validation
    return here if is_name and private_root(name, folder) == here else folder


def private_root(name: str, folder: str) -> str | None:
    """The folder whose private package the module `name` is loaded in; None where Python's own import finds it."""
    top, here = name.partition(".")[0], working_folder()
    if beside.holds(folder, top):
        return folder
    if top in STILLHOUSE:  # Python's own import finds Stillhouse
        if name != top and _path(name, str(HOME)):
            return None
        places = [place or here for place in (*sys.path, here) if Path(place or here).resolve() != HOME]
        return next((place for place in places if _path(name, place)), None)
    path = [place for place in sys.path if os.path.abspath(place or here) != here]
    return here if beside.elsewhere(top, path) is None and beside.holds(here, top) else None


def digest(factory: str, folder: str) -> str:
    """sha256 over the source text of `factory`; executes no code.

    Beside the configuration: its file and the files that it imports from there. Installed: its distribution's version.
    """
    found = _sources(factory, folder)
    if not found:
        versions = [f"{owner} {version}" for owner, version in needs(factory, folder).items()]
        return hashlib.sha256("\n".join(versions).encode()).hexdigest()
    return hashlib.sha256(b"\0".join(found[file] for file in sorted(found))).hexdigest()


def needs(factory: str, folder: str) -> dict[str, str]:
    """Versions of the installed distributions that contain `factory`, or that its files beside the configuration
    import."""
    sources = _sources(factory, folder)
    found_in = [name for file, content in sources.items() for name in _imports(content, file, folder)]
    modules = found_in or [factory.partition(":")[0]]
    found: dict[str, str] = {}
    for top in {module.partition(".")[0] for module in modules}:
        if not beside.holds(folder, top):
            found |= distributions(top)
    return dict(sorted(found.items()))


def files(factory: str, folder: str) -> dict[Path, bytes]:
    """The files beside the configuration that `factory` depends on: its code, and the files that this code has read in
    this process. Empty where it is installed. See `provenance.files_of` for the files of one model."""
    found = _sources(factory, folder)
    read = {path for file in found for path in observed.opened_by(os.path.abspath(file))}
    for path in sorted(read):
        place = within(path, folder)
        if place is not None:
            found.setdefault(Path(folder, place), path.read_bytes())
    return found


def within(path: Path, folder: str) -> Path | None:
    """`path` relative to `folder`, with or without resolving links; None where it lies outside."""
    for one, other in ((path, Path(os.path.abspath(folder))), (path.resolve(), Path(folder).resolve())):
        if folder and one.is_relative_to(other):
            return one.relative_to(other)
    return None


def texts(value: Any) -> list[str]:
    """The strings in a factory's arguments that may be file names."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) and 0 < len(value) < LONGEST_NAME and value.isprintable() else []


def _sources(factory: str, folder: str) -> dict[Path, bytes]:
    """The Python files beside the configuration that contain `factory` or that it imports; of a package, all files."""
    found: dict[Path, bytes] = {}
    wanted = [factory.partition(":")[0]]
    while wanted:
        name = wanted.pop()
        top = Path(folder, name.partition(".")[0])
        path = _path(name, folder)
        whole = folder and path is not None and (top / "__init__.py").is_file()
        for file in sorted(top.rglob("*.py")) if whole else [path] if path is not None else []:
            if file not in found:
                found[file] = file.read_bytes()
                wanted += _imports(found[file], file, folder)
    return found


def _imports(source: bytes, file: Path, folder: str) -> list[str]:
    """The modules that a file below `folder` imports, by their names from there; empty where it does not parse."""
    package = file.relative_to(folder).parent.parts
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package) + 1:
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = [*above, node.module] if node.module else [*above]
            names += [".".join([*base, *more]) for more in ([], *([each.name] for each in node.names)) if base or more]
    return names


def _path(module: str, folder: str) -> Path | None:
    """The file of a module, or of a package, beside the configuration."""
    place = Path(folder, *module.split("."))
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if folder and path.is_file():
            return path
    return None


def _module(name: str, folder: str, factory: str) -> ModuleType:
    from workers.seeds import seeded

    root = private_root(name, folder)
    try:
        with beside.running(root or folder), seeded(0):  # so that import-time random numbers agree across processes
            return importlib.import_module(name) if root is None else beside.load(name, root)
    except ModuleNotFoundError as error:
        missing = beside.plain(error.name or "")
        if missing and f"{name}.".startswith(f"{missing}."):
            raise RequestError(_nowhere(factory, name, folder)) from error
        raise _broken(factory, name, error) from error
    except RequestError:
        raise
    except (Exception, SystemExit) as error:  # SystemExit: a script may call sys.exit() at its end
        raise _broken(factory, name, error) from error


def _nowhere(factory: str, name: str, folder: str) -> str:
    working = working_folder()
    here = "" if os.path.abspath(folder or ".") == working else f", and in the working directory '{working}'"
    return (
        f"factory '{factory}': no module '{name}' on the machine {platform.node()}. Looked in '{folder}', beside the "
        f"configuration file (or its `folder:`), among installed packages and on PYTHONPATH{here}. Put "
        f"{name.replace('.', '/')}.py beside the configuration, or name its place by `folder:` beside `factory:`."
        f"{_name_taken(name)}"
    )


def _name_taken(name: str) -> str:
    top = name.partition(".")[0]
    if top not in STILLHOUSE:
        return ""
    return (
        f" '{top}' is a package of Stillhouse's own: yours of that name is found beside the configuration, in "
        "`folder:`, on PYTHONPATH or in the working directory; rename it where it is installed otherwise."
    )


def _broken(factory: str, name: str, error: BaseException) -> RequestError:
    return RequestError(
        f"factory '{factory}': module '{name}' cannot be imported ({type(error).__name__}: {beside.plain(str(error))})."
        " Correct the module, or install what it imports on every node."
    )
