"""A cluster of several nodes on this machine; all nodes but the head can be killed and replaced."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.cluster import environment
from tests import commands

environment.prepare()  # before Ray is imported

CLEANUPS = 10
"""Attempts to remove the folder of a cluster, a second apart."""


class Nodes:
    """A head node, which only hosts the driver and its data, and `count` further nodes.

    has: resources of each node (default: two cores). jobs: whether the cluster accepts jobs, at the URL `dashboard`.
    """

    def __init__(self, count: int, *, jobs: bool = False, **has: float) -> None:
        self.count, self.jobs, self.has = count, jobs, has or {"num_cpus": 2}
        self.mark = commands.new_mark()

    def __enter__(self) -> Nodes:
        from ray.cluster_utils import Cluster

        os.environ[self.mark] = "1"  # inherited by all processes of the cluster
        self._folder = tempfile.TemporaryDirectory(prefix="nodes-")  # short, since paths of sockets are limited
        self._cluster: Any = Cluster()
        try:
            self._begin()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _begin(self) -> None:
        """Start the head and the nodes."""
        any_port = {"dashboard_port": None, "dashboard_agent_listen_port": None}
        head = self._add(num_cpus=0, include_dashboard=self.jobs, **any_port)
        self.address: str = self._cluster.address
        if self.jobs:  # like `ray start`, since a job may otherwise join another local cluster
            Path(head.get_temp_dir_path(), "ray_current_cluster").write_text(self.address)
        for _ in range(self.count):
            self.add()
        self.dashboard = f"http://{self._cluster.webui_url}"

    def _close(self) -> None:
        try:
            self._cluster.shutdown()
        finally:
            del os.environ[self.mark]
            commands.end(self.mark)
        for _ in range(CLEANUPS):  # the agents of a lost node still write for a moment
            with contextlib.suppress(OSError):
                return self._folder.cleanup()
            time.sleep(1.0)
        self._folder.cleanup()

    def disturb(self, action: str, drawn: random.Random) -> int:
        """Kill and replace a node, or stop its raylet for a while. Returns the raylet."""
        pid = drawn.choice(sorted(self.raylets()))
        if action == "kill":
            self.replace(pid, drawn.uniform(0.0, 3.0))
        else:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(drawn.uniform(0.5, 4.0))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return pid

    def replace(self, raylet: int, after_s: float) -> None:
        """Kill a node, and replace it after `after_s` seconds."""
        self.lose(raylet)
        time.sleep(after_s)
        self.add()

    def lose(self, raylet: int) -> None:
        """Kill this raylet, and so its node."""
        node = self.raylets()[raylet]
        os.kill(raylet, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def add(self) -> None:
        """Add a node with the same resources as the others."""
        self._add(**self.has)

    def _add(self, **what: Any) -> Any:
        """Add a node with its own folder, since Ray's nodes delete the copies of a job's folder in theirs."""
        own = {"temp_dir": tempfile.mkdtemp(dir=self._folder.name, prefix="")} if self.jobs else {}
        return self._cluster.add_node(**what, **own)

    def raylets(self) -> dict[int, Any]:
        """All nodes except the head, by the process id of the raylet."""
        return {node.all_processes["raylet"][0].process.pid: node for node in self._cluster.worker_nodes}


def main() -> int:
    """Run a command on such a cluster: `python -m tests.chaos.nodes COUNT CPUS GPUS COMMAND...`; returns its status."""
    count, cpus, gpus, *command = sys.argv[1:]
    with Nodes(int(count), num_cpus=float(cpus), num_gpus=float(gpus)) as nodes:
        return subprocess.run(command, env=os.environ | {"RAY_ADDRESS": nodes.address}).returncode


if __name__ == "__main__":
    sys.exit(main())
