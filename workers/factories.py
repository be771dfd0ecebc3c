"""`module:function` -> what the function returns.

The module is looked for beside the configuration file, else among what is installed. One found beside the
configuration is loaded under a name made from its path, so that the `models.py` of two configurations do not
meet in one process, and its classes travel to other processes by value.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.errors import RequestError

BESIDE = "stillhouse_beside_"
"""What the names of modules from beside a configuration begin with."""


def call(factory: str, kwargs: dict[str, Any], folder: str) -> Any:
    """Call `factory` (`module:function`) with `kwargs`.

    Raises: `RequestError` where the module or function is missing, or raises.
    """
    function = load(factory, folder)
    try:
        return function(**kwargs)
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"factory '{factory}' raised {type(error).__name__}: {error}. "
            f"It was called with {kwargs or 'no arguments'}."
        ) from error


def load(factory: str, folder: str) -> Any:
    """The function that `factory` names."""
    module_name, _, function_name = factory.partition(":")
    module = _module(module_name, folder, factory)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise RequestError(
            f"factory '{factory}': module '{module_name}' ({module.__file__}) has no function "
            f"'{function_name}'. It has: {', '.join(sorted(names)) or 'none'}."
        )
    return function


def digest(factory: str, folder: str) -> str:
    """sha256 over the code that `factory` follows from.

    Beside the configuration: its file and those that it imports from there. Installed: its distribution's version.
    """
    found = files(factory, folder)
    if not found:
        versions = [f"{owner} {version}" for owner, version in needs(factory, folder).items()]
        return hashlib.sha256("\n".join(versions).encode()).hexdigest()
    return hashlib.sha256(b"\0".join(found[file] for file in sorted(found))).hexdigest()


def needs(factory: str, folder: str) -> dict[str, str]:
    """Installed distributions, and their versions, that `factory` is in, or that its files beside the configuration
    import."""
    beside = files(factory, folder)
    modules = [name for content in beside.values() for name in _imports(content)] or [factory.partition(":")[0]]
    owners = importlib.metadata.packages_distributions()
    found = {owner for module in modules for owner in owners.get(module.split(".")[0], [])}
    return {owner: importlib.metadata.version(owner) for owner in sorted(found)}


def files(factory: str, folder: str) -> dict[Path, bytes]:
    """The files beside the configuration that `factory` follows from; none where it is installed."""
    found: dict[Path, bytes] = {}
    wanted = [factory.partition(":")[0]]
    while wanted:
        path = _path(wanted.pop(), folder)
        files = [] if path is None else sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        for file in files:
            if file not in found:
                found[file] = file.read_bytes()
                wanted += _imports(found[file])
    return found


def _imports(source: bytes) -> list[str]:
    """The modules that a file imports by absolute names; none of one that does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return names


def _path(module: str, folder: str) -> Path | None:
    """The file of a module, or of a package, beside the configuration."""
    place = Path(folder, *module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if folder and path.is_file():
            return path
    return None


def _module(name: str, folder: str, factory: str) -> ModuleType:
    path = _path(name, folder)
    try:
        if path is not None:
            return _beside(path, Path(folder).resolve(), digest(factory, folder))
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            raise RequestError(
                f"factory '{factory}': no module '{name}' on the machine {platform.node()}. Expected {name}.py in "
                f"'{folder}', beside the configuration file, or an installed package."
            ) from error
        raise _broken(factory, name, error) from error
    except RequestError:
        raise
    except (Exception, SystemExit) as error:  # a script, perhaps, that ends when it is through
        raise _broken(factory, name, error) from error


def _broken(factory: str, name: str, error: BaseException) -> RequestError:
    return RequestError(f"factory '{factory}': module '{name}' cannot be imported ({type(error).__name__}: {error}).")


def _beside(path: Path, folder: Path, code: str) -> ModuleType:
    # Changed code is another module: a long-lived process must not go on with the old one.
    name = f"{BESIDE}{path.stem}_{hashlib.sha256(f'{folder} {path} {code}'.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    known, writes = set(sys.modules), sys.dont_write_bytecode
    sys.modules[name] = module
    sys.dont_write_bytecode = True  # the folder is somebody else's
    sys.path.insert(0, str(folder))  # so that it can import its neighbours
    importlib.invalidate_caches()
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(folder))
        _forget_neighbours(folder, known | {name})
    return module


def _forget_neighbours(folder: Path, known: set[str]) -> None:
    """Take the modules that came from `folder` out of Python's table.

    Another configuration's neighbours may have the same names; and what has no entry there is pickled by value.
    """
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).resolve().is_relative_to(folder):
            del sys.modules[name]
