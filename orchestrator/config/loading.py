"""Loads a configuration from YAML, applies dotted overrides, and makes paths and the folders of code absolute."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config import yaml_text
from orchestrator.config.initial import WORDS
from orchestrator.config.schema import STORAGE, TrackingSpec
from workers import storage
from workers.errors import RequestError
from workers.user_code import factories

CODE = ("kind", "factory", "term", "schedule")
"""Keys that name the user's own code, always or as `module:Class` instead of a built-in name."""
PATHS = ("path", "checkpoint", "checkpoints", "initial", "tokenizer")
"""Keys whose values are paths, or lists of them, relative to the configuration file."""
SELF_REFERENCE = "the configuration refers to itself (a YAML anchor inside what it names). Remove the alias."
CONFIG = "config.yaml"
MAX_BYTES, MAX_NODES = 2**20, 100_000
"""Limits of a configuration, against wrong files and exhaustion of memory."""


FOUND = {type(None): "nothing", list: "a list", str: "a text"}
"""What a file without keys has, by its type."""


def read(path: str) -> dict[str, Any]:
    """The keys of the configuration file at a local path. Raises: `RequestError` where it is invalid."""
    if Path(path).is_dir():
        raise RequestError(f"'{path}': a folder. Expected a configuration in YAML, such as '{Path(path) / CONFIG}'.")
    try:
        if Path(path).is_file() and Path(path).stat().st_size > MAX_BYTES:
            raise RequestError(f"'{path}': larger than {MAX_BYTES:,} bytes. Expected a configuration in YAML.")
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"'{path}': no such file. Expected a configuration in YAML.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"'{path}': cannot be read as text ({error}). Expected a configuration in YAML.") from None
    return parsed(text, path)


def parsed(text: str, path: str) -> dict[str, Any]:
    """The keys of a configuration in YAML. path: its name in errors. Raises: `RequestError` where it is invalid."""
    try:
        found = yaml_text.parse(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}, column {place.column + 1}" if place else ""
        raise RequestError(f"'{path}'{where}: not YAML ({_problem(error)}). {yaml_text.FIX}") from None
    try:
        too_large = _nodes(found) > MAX_NODES
    except RecursionError:
        raise RequestError(SELF_REFERENCE) from None
    if too_large:
        raise RequestError(
            f"'{path}': its anchors expand to more than {MAX_NODES:,} values; expected fewer. Write the values out, or "
            "remove nested anchors."
        )
    if not isinstance(found, dict):
        what = FOUND.get(type(found), "a single value")
        raise RequestError(f"'{path}': found {what}; expected keys with values, such as `name: digits`.")
    return found


def _problem(error: Exception) -> str:
    """The message of an error of YAML on one line: what was read, and what is wrong with it."""
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    return ", ".join(part for part in parts if part) or str(error)


def _nodes(value: Any, limit: int = MAX_NODES) -> int:
    """Number of values at all depths; stops counting soon after `limit`.

    Raises: RecursionError where a value contains itself.
    """
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    count = 1
    for each in inner:
        if count > limit:
            break
        count += _nodes(each, limit - count)
    return count


def override(values: dict[str, Any], assignment: str) -> None:
    """Apply one KEY=VALUE with a dotted key, in which entries of a list are numbers from 0, as in
    `student.stages.0.name`. Raises: `RequestError` where it is invalid."""
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RequestError(f"--set '{assignment}': expected KEY=VALUE, such as ensemble.size=5.")
    try:
        value = yaml_text.parse(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RequestError(
            f"--set '{assignment}': the value is not YAML ({_problem(error)}). {yaml_text.FIX}"
        ) from None
    holder: Any = values
    for number, part in enumerate(parts[:-1]):
        place = _place(holder, parts[: number + 1], assignment)
        inner = holder.get(place) if isinstance(holder, dict) else holder[place]
        inner = {} if inner is None else inner  # left out, or all its keys are
        if not isinstance(inner, dict | list):
            raise RequestError(
                f"--set '{assignment}': '{part}' is {inner!r}, which has no keys inside. Expected a key with keys "
                "inside: correct the key."
            )
        holder[place] = copy.copy(inner)  # an alias of YAML is the same object in all its places
        holder = holder[place]
    holder[_place(holder, parts, assignment)] = value


def value_of(values: Any, key: str) -> Any:
    """The value at a dotted key, as `override` takes it; None where there is none."""
    for part in key.strip().split("."):
        if isinstance(values, list):
            values = {str(number): each for number, each in enumerate(values)}
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _place(holder: dict[str, Any] | list[Any], key: Sequence[str], assignment: str) -> Any:
    """The last word of a key as an index of what holds its value: the number of an entry of a list."""
    if isinstance(holder, dict):
        return key[-1]
    if not key[-1].isdecimal() or int(key[-1]) >= len(holder):
        entries = f"the number of one of its {len(holder)} entries, from 0" if holder else "another key"
        raise RequestError(
            f"--set '{assignment}': '{'.'.join(key[:-1])}' is a list, and '{key[-1]}' names none of it; expected "
            f"{entries}."
        )
    return int(key[-1])


def located(values: dict[str, Any], folder: str, experiment: Any) -> dict[str, Any]:
    """The values with absolute paths, the folder of every factory, and an MLflow experiment."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        walked = {key: walk(item) if key != "kwargs" else item for key, item in value.items()}
        code = code_in(walked)
        if code is not None:
            walked["folder"] = _folder_of(code, walked.get("folder"), folder)
        for key in PATHS:
            if key in walked and walked[key] not in WORDS:
                walked[key] = _absolute(walked[key], folder)
        if code is not None or value is values.get("data"):
            walked["depends_on"] = _depends_on(walked.get("depends_on"), _section(values, "data"), folder)
        return walked

    found: dict[str, Any] = walk(values)
    data, tracking = (_section(found, key) for key in ("data", "tracking"))
    if isinstance(data.get("root", ""), str):
        data["root"] = storage.absolute(data.get("root", ""), folder)
    place = found.get("storage", STORAGE)
    if isinstance(place, str):
        found["storage"] = storage.absolute(place)
    uri = tracking.get("uri", TrackingSpec.model_fields["uri"].default)
    if isinstance(uri, str):
        found["tracking"] = (
            {**tracking, "uri": _absolute_tracking(uri)}
            if found.get("tracking") is None or isinstance(found["tracking"], dict)
            else found["tracking"]
        )
    default = experiment if isinstance(experiment, str) and experiment else found.get("name")
    if isinstance(found.get("tracking"), dict) and not tracking.get("experiment") and isinstance(default, str):
        found["tracking"]["experiment"] = default
    return found


def code_in(section: Mapping[str, Any]) -> str | None:
    """The user's own code that a section of a configuration names, as `module:name`; None where it names none."""
    return next((each for each in map(section.get, CODE) if isinstance(each, str) and ":" in each), None)


def own_code(values: Any, model: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All code of the user's that a configuration, or a part of it, names: each as `module:name`, with the section that
    has its `folder` and `depends_on`.

    model: the section of the model around `values`, which a `fit` of its training shares.
    """
    if isinstance(values, Mapping):
        model = values["model"] if isinstance(values.get("model"), Mapping) else model
        name, fit = code_in(values), values.get("fit")
        if name is not None:
            yield name, values
        if isinstance(fit, str) and ":" in fit and model is not None:
            yield fit, model
        values = [value for key, value in values.items() if key != "kwargs"]
    for each in values if isinstance(values, list | tuple) else ():
        yield from own_code(each, model)


def _absolute(value: Any, folder: str) -> Any:
    """Make a path, or a list of paths, absolute; other types stay unchanged, since pydantic reports them."""
    if isinstance(value, list):
        return [_absolute(each, folder) for each in value]
    return storage.absolute(value, folder) if isinstance(value, str) else value


def _folder_of(factory: Any, asked: Any, folder: str) -> Any:
    """The folder of a factory: the configured one, relative to `folder`, else the one in which it is found."""
    if asked:
        return storage.absolute(asked, folder) if isinstance(asked, str) else asked
    return factories.locate(factory, folder) if isinstance(factory, str) else folder


def _depends_on(own: Any, data: dict[str, Any], folder: str) -> Any:
    """The files in `depends_on` of a factory and of `data`, as absolute paths."""
    every = [own or [], data.get("depends_on") or []]
    if not all(isinstance(paths, list) and all(isinstance(path, str) for path in paths) for paths in every):
        return own  # pydantic reports it
    return list(dict.fromkeys(storage.absolute(path, folder) for paths in every for path in paths))


def _section(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _absolute_tracking(uri: str) -> str:
    """Make SQLite paths absolute, since the working folder of a job is a copy."""
    prefix = "sqlite:///"
    return prefix + storage.absolute(uri.removeprefix(prefix)) if uri.startswith(prefix) else uri
