"""Run schedules of the pool and contests for the lock: a single one with a trace, or many, printing failed seeds.

`--seed N` replays a schedule, `--lock N` a contest. Otherwise `--schedules` and `--contests` are the numbers to run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.simulation import locks
from tests.simulation.promises import Broken, with_seed
from tests.simulation.schedule import draw
from tests.simulation.world import World


def run(seed: int, trace: Callable[[str], None] | None = None) -> World:
    """Run one schedule. Raises: `Broken` with its seed."""
    world = World(draw(seed), trace)
    try:
        world.run()
    except Exception as error:
        raise with_seed(error, "--seed", seed) from error
    return world


def replay(seed: int) -> None:
    """Run one schedule with a trace."""
    print(draw(seed))
    world = run(seed, print)
    print(f"seed {seed} holds: {world.failure or 'every part is made'}")


def run_many(what: str, runs: Callable[[int], object], seeds: range) -> int:
    """Run all seeds, and print those that break a promise. Returns their number."""
    began, failed = time.perf_counter(), 0
    for seed in seeds:
        try:
            runs(seed)
        except Broken as error:
            failed += 1
            print(error)
    print(f"{len(seeds)} {what} in {time.perf_counter() - began:.0f} s, {failed} broke a promise")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this schedule of the pool")
    parser.add_argument("--lock", type=int, help="replay this contest for the lock")
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--contests", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    if asked.seed is not None:
        replay(asked.seed)
        return 0
    if asked.lock is not None:
        locks.run(asked.lock, print)
        return 0
    failed = run_many("schedules", run, range(asked.first, asked.first + asked.schedules))
    failed += run_many("contests", locks.run, range(asked.first, asked.first + asked.contests))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
