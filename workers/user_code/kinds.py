"""A kind by its name: an entry of a table, or `module:Class`, found as factories are."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from workers.errors import RequestError
from workers.user_code import beside, factories

T = TypeVar("T")


def make(key: str, name: str, table: Mapping[str, Callable[..., T]], kwargs: dict[str, Any], folder: str) -> T:
    """What the kind `name` makes of `kwargs`. key: where it is configured, such as `distillation.objective`.

    Raises: `RequestError` for an unknown kind, naming those that are known, and for settings that it does not take.
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
        raise RequestError(f"{key}: '{name}' does not take `kwargs` {kwargs}: {beside.plain(str(error))}.") from error


def _near(name: str, known: Iterable[str]) -> str:
    """A sentence with the known name that is nearest to `name`, behind a space; empty where none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""
