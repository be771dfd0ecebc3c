"""Run schedules: one with a trace (`--seed N`), or many (`--schedules N`), which print their seeds where they fail."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.promises import Broken
from tests.simulation.schedule import draw
from tests.simulation.world import World


def replay(seed: int) -> int:
    """Run one schedule with a trace. Returns the exit status."""
    schedule = draw(seed)
    print(schedule)
    world = World(schedule, trace=print)
    try:
        world.run()
    except Exception as error:
        print(f"seed {seed} breaks a promise: {type(error).__name__}: {error}")
        raise
    print(f"seed {seed} holds: {world.failure or 'every part is made'}")
    return 0


def run(seed: int) -> World:
    """Run one schedule. Raises: `Broken` with its seed."""
    world = World(draw(seed))
    try:
        world.run()
    except Exception as error:
        raise Broken(f"{error}\nreplay: python -m tests.simulation --seed {seed}") from error
    return world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this schedule")
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    if asked.seed is not None:
        return replay(asked.seed)
    began, failed = time.perf_counter(), 0
    for seed in range(asked.first, asked.first + asked.schedules):
        try:
            run(seed)
        except Broken as error:
            failed += 1
            print(error)
    print(f"{asked.schedules} schedules in {time.perf_counter() - began:.0f} s, {failed} broke a promise")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
