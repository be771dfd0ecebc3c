"""Where a process of ours runs, and how it is ended when it no longer answers Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workers.user_code.factories import JOB_FOLDER

TRIES, PATIENCE_S = 10, 30.0
"""How often, and for how long each time, a task announces itself."""


@dataclass(frozen=True)
class Where:
    """A worker process of Ray's, on which node."""

    node: str
    pid: int


def here() -> Where:
    """This process."""
    return Where(ray.get_runtime_context().get_node_id(), os.getpid())


def announce(name: str, events: Any) -> None:
    """Put `(name, here())` into the queue `events`, and try again while Ray restarts the queue's actor.

    In a thread, since a task that waits for Ray lends its cores to others.
    """
    told = (name, here())

    def tell() -> None:
        for _ in range(TRIES):
            try:
                events.actor.put_nowait.remote(told).future().result(timeout=PATIENCE_S)
                return
            except Exception:  # of Ray, in one of several ways
                time.sleep(1.0)

    threading.Thread(target=tell, name="announce", daemon=True).start()


def settle() -> None:
    """Ray calls this in each worker process of a run before any task.

    Ray Train asks for actors at the address in RAY_ADDRESS; without one it asks any other Ray of this machine. And code
    that runs in a job finds itself in the folder of the configuration, as in the driver.
    """
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    folder = os.environ.get(JOB_FOLDER)
    if folder and os.path.isdir(folder):
        os.chdir(folder)
        os.environ[JOB_FOLDER] = os.getcwd()


def end(where: Where) -> None:
    """SIGKILL a process on its node: one that was stopped, or hangs in a driver of its GPU, cannot end itself."""
    strategy = NodeAffinitySchedulingStrategy(where.node, soft=False)
    _end.options(scheduling_strategy=strategy).remote(where.pid)


@ray.remote(num_cpus=0, max_retries=0)
def _end(pid: int) -> None:
    with contextlib.suppress(OSError):  # gone already
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):  # the number may be another process's by now
            os.kill(pid, signal.SIGKILL)
