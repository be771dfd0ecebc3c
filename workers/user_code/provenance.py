"""The provenance of a model besides its weights: the inputs that decide whether earlier results are reused.

This module builds the model in freshly loaded modules (`beside`) and records the files that the code opens
(`observed`). It also follows the import graph of the factory (`reach`). A file that is read without Python's `open`,
such as a safetensors file, is found where a constant of that code names it. Other such files only count through the
built model, or through `data.depends_on`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from workers import storage
from workers.device import one_thread
from workers.errors import RequestError
from workers.specs.base import FactorySpec, Spec
from workers.specs.models import ModelSpec, OwnModel, SklearnModel
from workers.user_code import beside, factories, observed, origins
from workers.user_code.beside import Stamp
from workers.user_code.reach import Reach, whole_file

logger = logging.getLogger(__name__)

UNSET = "unset"
SEED = 0
"""Seed with which a model is built for its provenance."""
REMOTE = ("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "updated", "mtime")
"""Names in remote file systems for properties that change with a file."""


@dataclass(frozen=True)
class Examined:
    """The inputs of a factory, and the state of all sources from which they were determined."""

    inputs: dict[str, Any]
    paths: dict[str, Path]
    """The files, including code, that the inputs name."""
    state: dict[str, Any]


_known: dict[str, Examined] = {}
_read_in_use: dict[str, set[Path]] = {}
"""By `_key`: data files that networks opened in their forward passes."""


def of_factory(spec: FactorySpec, call: Callable[[], Any]) -> dict[str, Any]:
    """The inputs of any factory, without `model` and `built`. call: uses the factory briefly, but as a run does."""
    return examined(spec, call).inputs


def versions() -> dict[str, str]:
    """Versions of python, torch, numpy and stillhouse: results may depend on them, but they do not affect reuse."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "stillhouse"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def check_depends_on(uris: Iterable[str]) -> None:
    """Raise `RequestError` where a file of `data.depends_on` is missing."""
    for uri in uris:
        _stamp(uri)


@contextmanager
def in_use(spec: Spec) -> Iterator[None]:
    """Add files that are opened during the block, such as a forward pass's lookup tables, to the inputs of `spec`."""
    with observed.recording() as record:
        yield
    read = {path for path in record.read() if path.suffix != ".py"}
    key = _key(spec)
    known = _read_in_use.setdefault(key, set())
    if not read <= known:
        known |= read
        _known.pop(key, None)


def _key(spec: Spec) -> str:
    return json.dumps([type(spec).__name__, os.getcwd(), spec.model_dump(mode="json")], sort_keys=True)


def examined(spec: FactorySpec, call: Callable[[], Any]) -> Examined:
    key = _key(spec)
    known = _known.get(key)
    if known is None or known.state != _state(known.state):
        known = _known[key] = _look(spec, call)
    return known


def _look(spec: FactorySpec, call: Callable[[], Any]) -> Examined:
    module_name, _, function = spec.factory.partition(":")
    root = factories.private_root(module_name, spec.folder)
    factories.load(spec.factory, spec.folder)  # first, since some code can run only once in a process
    with one_thread():  # some initial weights depend on the number of threads
        try:
            with beside.fresh(root) if root is not None else nullcontext():
                return _watch(spec, call, root, function)
        except RequestError:
            return _watch(spec, call, root, function, earlier=True)


def _watch(
    spec: FactorySpec, call: Callable[[], Any], root: str | None, function: str, earlier: bool = False
) -> Examined:
    """Use the factory twice and record its inputs. earlier: include files that its code read before in this process."""
    with observed.recording() as record:
        results = [_described(call()) for _ in range(2)]
    package = beside.of(root) if root is not None else None
    name = spec.factory.partition(":")[0]
    reach = Reach(package)
    reach.start(package.name + "." + name if package else name, function)
    for module, attribute in results[-1].types:
        reach.start(module, attribute)
    read = record.read()
    for path in sorted(path for path in read if path.suffix == ".py"):
        reach.opened(path)
    for path in sorted(map(Path, record.named)):
        reach.file(path)
    for source in reach.loaded():
        if earlier or not source.module.startswith(beside.BESIDE):
            read |= observed.opened_by(str(source.file))
    code = {source.file: source.content() for source in reach.reached()}
    code |= {path: whole_file(path) for path in reach.whole_files | reach.binaries if path not in code}
    read |= {path for path in _read_in_use.get(_key(spec), ()) if path.is_file()} | _named_files(reach, spec)
    data = {str(path): path for path in read if path.suffix != ".py"}
    labels = _labels([*code, *data.values()], root or spec.folder)
    inputs: dict[str, Any] = {
        "code": {labels[path]: content for path, content in sorted(code.items())},
        "files": {labels[path]: _digest(str(path)) for path in sorted(data.values())}
        | {_label(uri, spec.folder): _digest(uri) for uri in spec.depends_on},
        "environment": {name: _value(name) for name in sorted(reach.environment)},
        "packages": _packages(reach.installed),
    }
    if isinstance(spec, ModelSpec | SklearnModel | OwnModel):
        inputs = {"model": spec.determining(), **inputs}
        inputs["built"] = _agreed(spec, results[0].built, results[1].built)
    loaded = [source.file for source in reach.loaded()]
    paths = {str(path): path for path in (*code, *data.values(), *loaded)}
    paths |= {uri: Path(uri) for uri in spec.depends_on if storage.is_local(uri) and Path(uri).is_file()}
    wanted: dict[str, Any] = {
        "stamps": dict.fromkeys((*paths, *spec.depends_on)),
        "environment": dict.fromkeys(reach.environment),
        "folder": {root or "": None},
    }
    return Examined(inputs, paths, _state(wanted))


def _named_files(reach: Reach, spec: FactorySpec) -> set[Path]:
    """Data files that `kwargs` or constants of the reached code name, since code outside Python may read them.

    Constants are relative to their file or to the configuration, or to a folder there that another constant names.
    """
    found = {
        path for text in factories.texts(spec.kwargs) if (path := Path(os.path.abspath(spec.folder), text)).is_file()
    }
    for file in {file for file, _ in reach.texts}:
        texts = [text for other, text in reach.texts if other == file]
        places = [file.parent, Path(os.path.abspath(spec.folder))]
        places += [place / text for place in places for text in texts if text.strip("./") and (place / text).is_dir()]
        found |= {Path(os.path.abspath(place / text)) for place in places for text in texts if (place / text).is_file()}
    return {path for path in found if path.suffix != ".py" and origins.is_users(str(path))}


def _state(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The current state of the sources in `wanted`: cheap to determine, and different after any change."""
    return {
        "stamps": {uri: _stamp(uri, missing=True) for uri in wanted["stamps"]},
        "environment": {name: os.environ.get(name) for name in wanted["environment"]},
        "folder": {folder: beside.importable(folder) for folder in wanted["folder"]},
    }


def _labels(paths: list[Path], folder: str) -> dict[Path, str]:
    """A label of each file: its path relative to the folder, or else its name, so that copies have the same label."""
    found: dict[Path, str] = {}
    for path in sorted(set(paths)):
        place = factories.within(path, folder)
        label = place.as_posix() if place is not None else f".../{path.parent.name}/{path.name}"
        found[path] = label if label not in found.values() else str(path)
    return found


def _label(uri: str, folder: str) -> str:
    return uri if storage.is_uri(uri) else _labels([Path(uri)], folder)[Path(uri)]


def _packages(modules: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for module in sorted(modules):
        found |= origins.distributions(module)
    return {name: v for name, v in found.items() if origins.normalised(name) not in origins.own_dependencies()}


def _value(variable: str) -> str:
    """A digest of an environment variable's value; not the value itself, which may be a secret."""
    value = os.environ.get(variable)
    return UNSET if value is None else hashlib.sha256(f"{variable}={value}".encode()).hexdigest()


def _stamp(uri: str, missing: bool = False) -> Stamp | str:
    """Properties that change with a file, or with a file in a folder. missing: whether the path may be missing.

    Raises: `RequestError` where the path is missing and `missing` is False.
    """
    if storage.is_local(uri):
        path = Path(storage.filesystem(uri)[1])
        if path.exists() or missing:
            inner = sorted(path.rglob("*")) if path.is_dir() else []
            return tuple(number for each in (path, *inner) for number in beside.stamp(each))
    elif storage.exists(uri):
        fs, name = storage.filesystem(uri)
        info = fs.info(name)
        return json.dumps({key: str(info[key]) for key in REMOTE if key in info})
    elif missing:
        return ""
    raise RequestError(f"data.depends_on: '{uri}': no such file or folder. {storage.CHECK_PATH}")


def _digest(uri: str) -> str:
    """sha256 over the content of a file, or over names and contents of the files in a folder."""
    _stamp(uri)
    fs, path = storage.filesystem(uri)
    names = sorted(fs.find(path)) if fs.isdir(path) else [path]
    content = hashlib.sha256()
    for name in names:
        content.update(f"{name[len(path) :]}\0".encode())
        with fs.open(name, "rb") as file:
            for block in storage.blocks(file):
                content.update(block)
    return content.hexdigest()


@dataclass(frozen=True)
class _Described:
    built: dict[str, Any]
    types: list[tuple[str, str]]
    """Module and name of the classes and functions in the built module."""


def _described(built: Any) -> _Described:
    """A description of a factory's result that keeps no reference to it."""
    if not isinstance(built, nn.Module):
        return _Described({}, [])
    tensors = {
        name: tensor
        for named in (built.named_parameters, built.named_buffers)
        for name, tensor in named(remove_duplicate=False)
    }
    classes = {name or "(model)": _name(type(module)) for name, module in built.named_modules()}
    attributes = {name: _attributes(module) for name, module in built.named_modules()}
    return _Described(
        {
            "classes": classes,
            "tensors": {name: _shape(tensor) for name, tensor in tensors.items()},
            "weights": _hash([name, _plain(tensor)] for name, tensor in sorted(tensors.items())),
            "attributes": _hash([name, *map(repr, found)] for name, found in sorted(attributes.items()) if found),
        },
        sorted({each for module in built.modules() for each in _made_of(module)}),
    )


def _agreed(spec: FactorySpec, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    differs = [key for key in one if one[key] != other[key]]
    if differs:
        logger.warning(
            "model '%s' is not the same when it is built twice from one seed (%s), so these are left out of what "
            "decides whether earlier results are reused. Draw from the global generators of torch, numpy or random, "
            "which are seeded.",
            spec.factory,
            " and ".join(differs),
        )
    return {key: value for key, value in one.items() if key not in differs}


def _shape(tensor: Tensor) -> str:
    return "lazy" if is_lazy(tensor) else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """The plain values among a module's own attributes, which its `state_dict` lacks."""
    internal = vars(nn.Module()).keys()
    values = ((name, _plain(value)) for name, value in sorted(vars(module).items()) if name not in internal)
    return [(name, value) for name, value in values if value is not NotImplemented]


def _plain(value: Any) -> Any:
    """A plain value that `repr` describes completely; NotImplemented for other values."""
    if isinstance(value, Tensor):
        if is_lazy(value) or value.is_meta or value.layout != torch.strided:
            return _shape(value)
        flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)
        return (_shape(value), hashlib.sha256(flat.numpy().data).hexdigest())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return (str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if isinstance(value, (list, tuple)):
        inner = [_plain(each) for each in value]
    elif isinstance(value, (set, frozenset)):
        inner = sorted(map(repr, map(_plain, value)))
    elif isinstance(value, dict):
        inner = [part for key, each in value.items() for part in (_plain(key), _plain(each))]
    else:
        return NotImplemented
    return NotImplemented if any(each is NotImplemented for each in inner) else inner


def _hash(parts: Iterable[list[Any]]) -> str:
    content = hashlib.sha256()
    for part in parts:
        content.update(repr(part).encode() + b"\0")
    return content.hexdigest()


def _made_of(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Module and name of the user's code in a built module: its classes, and those of its attributes."""
    held: list[Any] = [module]
    for value in vars(module).values():
        held += value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else [value]
    for each in (each.func if isinstance(each, partial) else each for each in held):
        found = [each] if callable(each) and hasattr(each, "__qualname__") else type(each).__mro__
        for code in found:
            file = getattr(sys.modules.get(getattr(code, "__module__", None) or ""), "__file__", None)
            if isinstance(file, str) and origins.is_users(file):
                yield code.__module__, code.__qualname__.partition(".")[0]


def _name(kind: type) -> str:
    return beside.plain(f"{kind.__module__}.{kind.__qualname__}")
