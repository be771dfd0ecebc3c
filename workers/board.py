"""Where the student's workers learn which soft targets are there: the driver posts parts, workers wait for them.

Only a part's name travels; the part itself is read from the store. So a student that is slower than the teachers holds
up nobody and costs no memory, for what it has not yet read waits on the disk, and one that is faster waits here.
"""

from __future__ import annotations

import asyncio

import ray

from workers.soft_targets import Part


@ray.remote(num_cpus=0)
class Board:
    """The parts of one store as they come."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}
        self.closed = False
        self.changed = asyncio.Condition()

    async def post(self, parts: dict[int, Part]) -> None:
        """These parts can be read now."""
        async with self.changed:
            self.parts |= parts
            self.changed.notify_all()

    async def close(self) -> None:
        """No further part will come."""
        async with self.changed:
            self.closed = True
            self.changed.notify_all()

    async def part(self, number: int) -> Part | None:
        """The part, once it is there; None where it will never be."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed or number in self.parts)
            return self.parts.get(number)
