"""A kind by its name: an entry of a table, or `module:Class`, found as factories are."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
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
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise RequestError(f"{key}: found '{name}'; expected {', '.join(table)}, or `module:Class`.{hint}")
    try:
        return table[name](**kwargs)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{key}: '{name}' does not take `kwargs` {kwargs}: {beside.plain(str(error))}.") from error
