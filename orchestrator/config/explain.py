"""Converts pydantic's errors on a configuration to sentences: the key, the found and the expected value."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from orchestrator.config.schema import MODEL_NAME, NAME
from orchestrator.config.student import STAGE
from workers.specs.base import FACTORY, KIND

PATTERNS = {
    FACTORY: "`module:function`, for example models:mlp",
    KIND: "a name, or `module:Class`",
    NAME: "lower-case letters, digits, '.', '_' and '-', of which the first is a letter or digit",
    MODEL_NAME: "a name without '/', ':' and quotes",
    STAGE: "lower-case letters, digits, '_' and '-', of which the first is a letter or digit",
}
"""Descriptions of valid strings, by their patterns."""
OWN = {"kind": "a kind of your own as `module:Class`", "schedule": "one of your own as `module:Class`"}
"""What a string other than a built-in name may be, by the key."""
IN_WORDS = {
    "int_parsing": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
}
"""Descriptions of expected values, by pydantic's error types."""
REWORDED = {
    r"^Value error, ": "",
    r"^Input should be ": "",
    r"^(String|Tuple|List|Dictionary) should ": "it to ",
    r"Keys should be strings": "a string as the key",
    r"^a valid dictionary or instance of \w+$": "keys with values",
}
"""Words of pydantic's messages by patterns, one after another, and their replacements."""
OF_THE_KEY = ("missing", "extra_forbidden")
"""Error types that replace earlier ones of the same key."""


def explained(error: ValidationError, root: type[BaseModel]) -> str:
    """Every error as one line: the key, the found and the expected value. root: the validated model."""
    problems: dict[str, tuple[str, list[str]]] = {}
    for found in error.errors():
        keys, owner = _walk(found["loc"], root, names_key=found["type"] in ("extra_forbidden", "invalid_key"))
        name = ".".join(keys) or "the configuration"
        shown, message = _problem(found, keys, owner)
        if found["type"] in OF_THE_KEY:
            problems[name] = (shown, [message])
        else:
            problems.setdefault(name, (shown, []))[1].append(message)
    lines = []
    for name, (value, messages) in problems.items():
        text = " or ".join(dict.fromkeys(messages)) + _near(value, messages)
        lines.append(f"{name}: found {value}; expected {text}" if value else f"{name}: {text}")
    return "\n".join(lines)


def _problem(found: ErrorDetails, keys: Sequence[str], owner: type[BaseModel] | None) -> tuple[str, str]:
    """The found value, and what was expected; without a value to show, the problem itself. owner: of the last key."""
    if found["type"] == "missing":
        return "", "missing; it is required"
    if found["type"] == "extra_forbidden":
        known = list(_fields(owner)) if owner else []
        near = _like(keys[-1], known)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}."
        return "", f"unknown key; {hint}"
    value = found["input"]
    shown = "" if found["type"] == "value_error" else "nothing" if value is None else repr(value)
    return shown, _expected(found, keys)


def _expected(found: ErrorDetails, keys: Sequence[str]) -> str:
    """The expected value in words."""
    kind, message = found["type"], found["msg"]
    for pattern, words in REWORDED.items():
        message = re.sub(pattern, words, message)
    if kind == "string_pattern_mismatch":
        pattern = found["ctx"]["pattern"]
        message = PATTERNS.get(pattern, message)
        return OWN.get(keys[-1], message) if pattern == FACTORY else message
    if kind in ("string_type", "invalid_key"):
        return message + _quoted(found["input"])
    return IN_WORDS.get(kind, message)


def _like(name: str, known: Sequence[str]) -> list[str]:
    """The known name that was meant, if any: the one that begins so (of three characters on), or is most like it."""
    begins = [each for each in known if len(name) > 2 and each.startswith(name)]
    return begins or difflib.get_close_matches(name, known, n=1, cutoff=0.6)  # `lr` is half like `folder`


def _near(shown: str, messages: Sequence[str]) -> str:
    """The known name that is most like the found text, as a question; empty where none is."""
    known = [name for message in messages for name in re.findall(r"'(\w+)'", message)]
    near = difflib.get_close_matches(shown.strip("'"), known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near and shown.startswith("'") else ""


def _quoted(value: Any) -> str:
    """Advice to quote a value that YAML does not read as a string; empty for other values."""
    if isinstance(value, bool):
        return " in quotes (YAML reads yes, no, on and off as true or false)"
    return " in quotes (YAML reads it as a number)" if isinstance(value, (int, float)) else ""


def _walk(
    location: tuple[int | str, ...], root: type[BaseModel], *, names_key: bool
) -> tuple[list[str], type[BaseModel] | None]:
    """The parts of the key in a pydantic location, without union tags, and the model of the last part.

    names_key: whether the last part is a key as it is written, and not the tag of a union.
    """
    keys: list[str] = []
    owner: type[BaseModel] | None = root
    current: type[BaseModel] | None = root
    tagged: dict[str, type[BaseModel]] = {}
    named = False  # whether the next part is a name that the user gave
    for part in location:
        if isinstance(part, int):
            keys.append(str(part))
        elif named:
            keys.append(part)
            named = False
        elif part in tagged:
            current = tagged[part]
        elif current is not None and part in _fields(current):
            keys.append(part)
            annotation = _fields(current)[part].annotation
            owner, current, tagged = current, _model_in(annotation), _tagged_in(annotation)
            named = current is not None and _is_mapping(annotation)
        elif names_key and part == location[-1] and current is not None:
            keys.append(part)
            owner = current
    return keys, owner


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by their keys in YAML."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _tagged_in(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models of a discriminated union in an annotation, by their tags."""
    found: dict[str, type[BaseModel]] = {}
    if typing.get_origin(annotation) is Annotated:
        model, *metadata = typing.get_args(annotation)
        found |= {each.tag: inner for each in metadata if isinstance(each, Tag) and (inner := _model_in(model))}
    for inner in typing.get_args(annotation):
        found |= _tagged_in(inner)
    return found


def _is_mapping(annotation: Any) -> bool:
    """Whether an annotation such as `dict[str, Model] | None` is one of a mapping."""
    return typing.get_origin(annotation) is dict or (
        typing.get_origin(annotation) in (typing.Union, types.UnionType)
        and any(map(_is_mapping, typing.get_args(annotation)))
    )


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `tuple[Model, ...] | None`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    models = [_model_in(inner) for inner in typing.get_args(annotation)]
    return next((model for model in models if model is not None), None)
