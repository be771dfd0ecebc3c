"""A student's view of the soft targets, whose parts the teachers may still be computing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from workers import storage
from workers.errors import RunError
from workers.targets import soft_targets
from workers.targets.layout import PartLayout
from workers.targets.reader import LogitsReader, Reader, StoreReader
from workers.targets.soft_targets import Part, PartFile

POLL_S, REMOTE_POLL_S = (0.05, 0.5), (1.0, 4.0)
"""First and longest interval at which a worker polls for a missing part."""
POLL_GROWTH = 1.5


@dataclass(frozen=True)
class Store:
    """A worker's view of the soft targets: existing parts, and others as the teachers write them.

    The folder itself shows which parts are complete. So a slow student does not block the teachers, a fast student
    waits here, and there is no process between the two that can fail.
    """

    folder: str
    layout: PartLayout
    parts: dict[int, Part]
    coming: bool = False
    """Whether teachers are computing the other parts."""
    refused: frozenset[str] = frozenset()
    """Existing files that the teachers replace."""
    temperature: float = 1.0
    """T of the soft targets in the folder."""
    logits: LogitsReader | None = None
    """Reads each member's logits instead, which a schedule of T needs."""
    seen: dict[int, PartFile] = field(default_factory=dict)
    """Parts that polling has found in the folder."""

    def part(self, number: int) -> Part | PartFile:
        """Wait for a part and return its record. Each poll is one call to the storage, and finds all parts.

        Raises: `PassEnded` where the teachers will not write the part.
        """
        wait_s, most_s = POLL_S if storage.is_local(self.folder) else REMOTE_POLL_S
        while number not in self.parts and number not in self.seen:
            found, abandoned = soft_targets.listed(self.folder, self.refused)
            self.seen.update(found)
            if number not in found:
                if abandoned or not self.coming:
                    raise PassEnded(f"the teachers' pass ended before part {number} of the soft targets was written")
                time.sleep(wait_s)
                wait_s = min(POLL_GROWTH * wait_s, most_s)
        return self.parts.get(number) or self.seen[number]

    @property
    def reader(self) -> Reader:
        """The reader of parts."""
        return self.logits or StoreReader(self.folder, self.temperature)


class PassEnded(RunError):
    """The teachers' pass ended early. The driver knows the cause and reports it, so no training is tried again."""
