"""Many consecutive small runs in one driver, which must not leak resources.

    python -m tests.chaos.soak --minutes 30

After each run it measures the driver's memory and file descriptors, its child processes, and the bytes in Ray's store.
The first third of the runs is a warm-up; after it each value may only grow by the tolerance in `GROWTH`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from orchestrator.cluster import environment

environment.prepare()  # before Ray is imported

import ray  # noqa: E402

from orchestrator import RunConfig, run  # noqa: E402
from tests.makers import write_config  # noqa: E402

GROWTH = {"rss_mb": 0.10, "file_descriptors": 0.10, "threads": 0.10, "processes": 0.25, "store_mb": 0.10}
"""Largest accepted growth, as a fraction, of the median of the last third over that of the second."""


def held() -> dict[str, float]:
    """The current resources of the driver."""
    status = Path("/proc/self/status").read_text()
    rss_kb = int(status.split("VmRSS:")[1].split()[0])
    total, free = ray.cluster_resources(), ray.available_resources()
    store = total.get("object_store_memory", 0.0) - free.get("object_store_memory", 0.0)
    return {
        "rss_mb": rss_kb / 1024,
        "file_descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(below(os.getpid())),
        "store_mb": store / 2**20,
    }


def below(pid: int) -> list[int]:
    """The descendants of a process."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(place.name))
    found, wanted = [], [pid]
    while wanted:
        children = parents.get(wanted.pop(), [])
        found += children
        wanted += children
    return found


def soak(minutes: float, scratch: Path) -> list[dict[str, float]]:
    """Start runs until the time is over; every third reuses the folder of its predecessor. Returns `held()` per run."""
    rows: list[dict[str, float]] = []
    began = time.monotonic()
    with ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR"):
        for number in itertools.count():
            path = write_config(
                scratch / str(number - number % 3 // 2),
                tracking={"uri": f"sqlite:///{scratch}/mlflow.db", "experiment": "soak"},  # MLflow caches each for ever
            )
            config = RunConfig.load(str(path), [f"seed={number}"])
            run(config)
            time.sleep(2)  # Ray frees resources asynchronously
            rows.append(held())
            print(f"{number:4d}  " + "  ".join(f"{key} {value:,.0f}" for key, value in rows[-1].items()), flush=True)
            if time.monotonic() - began > 60 * minutes and len(rows) >= 9:
                return rows
    raise AssertionError


def grown(rows: list[dict[str, float]]) -> list[str]:
    """Messages for the values that grew beyond the tolerance."""
    third = len(rows) // 3
    found = []
    for key, most in GROWTH.items():
        before = median(row[key] for row in rows[third : 2 * third])
        after = median(row[key] for row in rows[2 * third :])
        print(f"{key}: {before:,.1f} -> {after:,.1f}")
        if after > before * (1 + most) + 2:
            found.append(f"{key} grew from {before:,.1f} to {after:,.1f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    with tempfile.TemporaryDirectory(prefix="stillhouse-soak-") as scratch:
        wrong = grown(soak(parser.parse_args().minutes, Path(scratch)))
    raise SystemExit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
