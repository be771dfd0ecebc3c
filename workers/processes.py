"""Ray tasks that announce their process, locations of worker processes, and termination of unresponsive ones."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workers import faults
from workers.user_code.factories import JOB_FOLDER

TRIES, PATIENCE_S = 10, 30.0
"""Number of attempts of `announce`, and the timeout of each."""


@dataclass(frozen=True)
class Where:
    """The node and process id of a Ray worker process."""

    node: str
    pid: int


def here() -> Where:
    """The location of this process."""
    return Where(ray.get_runtime_context().get_node_id(), os.getpid())


def announce(name: str, events: Any) -> None:
    """Put `(name, here())` into the queue `events`, with retries while Ray restarts the queue's actor.

    This runs in a thread, since a task that waits for Ray releases its cores to other tasks.
    """
    told = (name, here())

    def tell() -> None:
        for _ in range(TRIES):
            try:
                events.actor.put_nowait.remote(told).future().result(timeout=PATIENCE_S)
                return
            except Exception:  # Ray has several error classes for a lost actor
                time.sleep(1.0)

    threading.Thread(target=tell, name="announce", daemon=True).start()


def task(function: Callable[..., Any]) -> Any:
    """`function` as a Ray task with two more arguments: its name, and a queue in which it announces itself first.

    It raises exceptions as a `Fault`.
    """

    def announced(*arguments: Any) -> Any:
        *own, name, events = arguments
        with faults.caught():
            announce(name, events)
            return function(*own)

    named: Any = functools.update_wrapper(announced, function)
    del named.__wrapped__  # Ray would take the number of arguments from it
    return ray.remote(named)


def settle() -> None:
    """Set up a worker process; Ray calls this in each worker process of a run before any task.

    It sets RAY_ADDRESS, since without it Ray Train may connect to another Ray on this machine. In a job it changes the
    working directory to the folder of the configuration, as in the driver.
    """
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    folder = os.environ.get(JOB_FOLDER)
    if folder and os.path.isdir(folder):
        os.chdir(folder)
        os.environ[JOB_FOLDER] = os.getcwd()


def end(where: Where) -> None:
    """Send SIGKILL on the process's node, since a stopped process or one that hangs in a GPU driver cannot exit."""
    strategy = NodeAffinitySchedulingStrategy(where.node, soft=False)
    _end.options(scheduling_strategy=strategy).remote(where.pid)


@ray.remote(num_cpus=0, max_retries=0)
def _end(pid: int) -> None:
    with contextlib.suppress(OSError):  # it has exited already
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):  # the id may be reused
            os.kill(pid, signal.SIGKILL)
