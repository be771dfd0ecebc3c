"""Cache keys: all inputs that determine an artifact, by name and as one digest.

Two artifacts with the same key have the same content, in any run's folder. So a key contains no path and no run name.
Of the machine it has at most the precision that `auto` is on its GPUs. On a CPU `auto` is float32, and keys have the
word, those of members' logits with `device: cpu`. A trained network's key has its recipe as configured; keys of what
follows from a network have the checksum of its weights. A key contains the kind of the artifact and the version of that
kind's format, so artifacts of different formats have different keys. Pure: this module reads and writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workers.errors import first_few
from workers.redact import redacted

DIGITS = 16
"""Hexadecimal digits of a digest: 64 bits."""
DIGEST = f"[0-9a-f]{{{DIGITS}}}"
"""Regular expression of a digest."""
SHOWN_CHANGES = 5
_FORMER = 2
"""Format version in the keys of earlier versions of Stillhouse, which did not contain the kind."""
_CHECKSUM = re.compile(r"[0-9a-f]{16,}")


@dataclass(frozen=True, init=False)
class Key:
    """`Key(kind, version, **what)`: the inputs that determine an artifact of this kind.

    kind: the name of a kind in `workers.artifacts.kinds`. version: of the kind's format. what: the inputs, as plain
    JSON values, nested mappings and other keys.
    """

    kind: str
    version: int
    what: Mapping[str, Any]

    def __init__(self, kind: str, version: int, /, **what: Any) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "version", version)
        object.__setattr__(self, "what", what)

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of the key's canonical JSON."""
        return _digest({"kind": self.kind, "version": self.version, "what": self.what}, "digest")

    @cached_property
    def former(self) -> str:
        """The digest that earlier versions of Stillhouse computed from the same `what`."""
        return _digest({"format": _FORMER, **self.what}, "former")

    def with_also(self, **what: Any) -> Key:
        """The same key with additional inputs."""
        return Key(self.kind, self.version, **self.what, **what)

    def flat(self) -> dict[str, str]:
        """`what` by dotted names, as text, without credentials."""
        return _flat(self.what)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """A short description of the differences between two keys, given as `Key.flat`; empty where they are equal."""
    differing = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    causes = [name for name in differing if not name.startswith("built.")]  # usually an effect of another change
    found = [_change(name, before.get(name), after.get(name)) for name in causes or differing]
    return first_few(found, SHOWN_CHANGES, str)


def _digest(value: Any, of_keys: str) -> str:
    """Digest of a JSON value. of_keys: the attribute of `Key` that replaces a key inside `value`."""

    def plain(inner: Any) -> str:
        if isinstance(inner, Key):
            return str(getattr(inner, of_keys))
        raise TypeError(f"a key cannot contain {type(inner).__name__}; expected plain JSON values and keys")

    text = json.dumps(value, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _flat(what: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in what.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = redacted(f"{name}={_text(value)}").removeprefix(f"{name}=")
    return found


def _text(value: Any) -> str:
    if isinstance(value, Key):
        return value.digest
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _change(name: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"{name} is {'new' if before is None else 'gone'}"
    if _CHECKSUM.fullmatch(before) or _CHECKSUM.fullmatch(after):
        return f"{name} changed"
    return f"{name}: {before} -> {after}"
