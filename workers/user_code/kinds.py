"""Creates a kind by its name: an entry of a table, or `module:Class`, loaded like a factory."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from workers.errors import RequestError
from workers.user_code import beside, factories

T = TypeVar("T")


def make(key: str, name: str, table: Mapping[str, Callable[..., T]], kwargs: dict[str, Any], folder: str) -> T:
    """Create the kind `name` from `kwargs`. key: its key in the configuration, such as `distillation.objective`.

    Raises: `RequestError` for an unknown kind, with the known ones, and for settings that the kind does not accept.
    """
    if ":" in name:
        made: T = factories.call(name, kwargs, folder)
        return made
    if name not in table:
        expected = f"{', '.join(table)}, or `module:Class`.{_near(name, table)}"
        raise RequestError(f"{key}: found '{name}'; expected {expected}")
    try:
        return table[name](**kwargs)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{key}: '{name}' does not take `kwargs` {kwargs}: {beside.plain(str(error))}. Expected its arguments: "
            "correct `kwargs`."
        ) from error


def _near(name: str, known: Iterable[str]) -> str:
    """A space and a sentence that suggests the known name most similar to `name`; empty where none is similar."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""
