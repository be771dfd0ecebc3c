"""What is known of the processes of tasks: where they run, and whether their nodes are alive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from workers.processes import Where

SOMEWHERE = Where("", 0)
"""The place of a task that runs at an unknown place."""


class Watch(Protocol):
    """Knows where tasks run, and notifies the user: `orchestrator.cluster.heartbeat.Heartbeat`."""

    def where(self, name: str) -> Where | None:
        """The process in which the task of that name last began; None before its first report."""

    def forget(self, name: str) -> None:
        """Forget the process of the task of that name, whose attempt has ended."""

    def note(self, text: str) -> None:
        """Notify the user."""


def is_any_alive(places: Iterable[Where | None]) -> bool:
    """Whether one of these processes is on a living node."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any(place is not None and (place.node in alive or place == SOMEWHERE) for place in places)
