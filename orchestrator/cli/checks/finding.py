"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
"""The subject of a check, and its function; some take seconds."""
