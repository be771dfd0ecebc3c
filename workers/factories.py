"""`module:function` -> what the function returns.

The module is looked for beside the configuration file, else among what is installed. One found beside the
configuration is loaded under a name made from its path, so that the `models.py` of two configurations do not
meet in one process, and its classes travel to other processes by value.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
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
    except Exception as error:
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
    """sha256 over the file beside the configuration that `factory` lies in and those beside it that it imports.

    Of no file for an installed one, which its version stands for.
    """
    found: dict[Path, bytes] = {}
    wanted = [factory.partition(":")[0]]
    while wanted:
        path = _path(wanted.pop(), folder)
        if path is None or path in found:
            continue
        found[path] = path.read_bytes()
        for node in ast.walk(ast.parse(found[path])):
            if isinstance(node, ast.Import):
                wanted += [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted.append(node.module)
    return hashlib.sha256(b"\0".join(found[path] for path in sorted(found))).hexdigest()


def _path(module: str, folder: str) -> Path | None:
    path = Path(folder, *module.split(".")).with_suffix(".py")
    return path if folder and path.is_file() else None


def _module(name: str, folder: str, factory: str) -> ModuleType:
    path = _path(name, folder)
    try:
        if path is not None:
            return _beside(path, Path(folder))
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            raise RequestError(
                f"factory '{factory}': no module '{name}'. Expected {name}.py in '{folder}', beside the "
                "configuration file, or an installed package."
            ) from error
        raise _broken(factory, name, error) from error
    except RequestError:
        raise
    except Exception as error:
        raise _broken(factory, name, error) from error


def _broken(factory: str, name: str, error: BaseException) -> RequestError:
    return RequestError(f"factory '{factory}': module '{name}' cannot be imported ({type(error).__name__}: {error}).")


def _beside(path: Path, folder: Path) -> ModuleType:
    path = path.resolve()
    # A changed file is another module: a long-lived process must not go on with the old one.
    mark = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"{BESIDE}{path.stem}_{mark}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(folder))  # so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(folder))
    return module
