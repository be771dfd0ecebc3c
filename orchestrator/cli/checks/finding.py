"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from workers.errors import RequestError

Level = Literal["ok", "warning", "stops"]


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    level: `stops` where a run would fail, `warning` where it would be slow or different.
    """

    name: str
    found: str
    level: Level = "ok"


Check = tuple[str, Callable[[], Finding]]
"""The subject of a check, and its function; some take seconds. It may raise where a run would fail."""


def of_check(name: str, look: Callable[[], Finding]) -> Finding:
    """What a check finds: an exception of it as one that stops a run, so that the other checks follow."""
    try:
        return look()
    except RequestError as error:
        return Finding(name, str(error), "stops")
    except Exception as error:  # each storage and driver has its own error classes
        return Finding(name, f"{type(error).__name__}: {error}", "stops")
