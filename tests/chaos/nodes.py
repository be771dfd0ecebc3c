"""A cluster of several nodes on this machine, of which all but the head may die and be replaced."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from types import TracebackType
from typing import Any

from orchestrator import environment

environment.prepare()  # before Ray is imported

MARK = "STILLHOUSE_MONKEY"


class Nodes:
    """The head, which only hosts the driver and its data, and `count` nodes: of two cores each, or what each `has`."""

    def __init__(self, count: int, **has: float) -> None:
        self.count, self.has = count, has or {"num_cpus": 2}
        self.mark = uuid.uuid4().hex

    def __enter__(self) -> Nodes:
        from ray.cluster_utils import Cluster

        os.environ[MARK] = self.mark  # for all that the cluster starts
        self._cluster: Any = Cluster()
        self._cluster.add_node(num_cpus=0, include_dashboard=False)
        for _ in range(self.count):
            self._cluster.add_node(**self.has)
        self.address: str = self._cluster.address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()
        del os.environ[MARK]

    def disturb(self, action: str, drawn: random.Random) -> int:
        """Kill a node's raylet, and so the node, and put another in its place; or stop it for a while."""
        node = drawn.choice(sorted(self._cluster.worker_nodes, key=lambda each: str(each.unique_id)))
        (raylet,) = node.all_processes["raylet"]
        pid: int = raylet.process.pid
        if action == "kill":
            os.kill(pid, signal.SIGKILL)
            self._cluster.remove_node(node, allow_graceful=False)
            time.sleep(drawn.uniform(0.0, 3.0))
            self._cluster.add_node(**self.has)
        else:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(drawn.uniform(0.5, 4.0))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return pid


def main() -> int:
    """Run a command on such a cluster: `python -m tests.chaos.nodes COUNT CPUS GPUS COMMAND...`; returns its status."""
    count, cpus, gpus, *command = sys.argv[1:]
    with Nodes(int(count), num_cpus=float(cpus), num_gpus=float(gpus)) as nodes:
        return subprocess.run(command, env=os.environ | {"RAY_ADDRESS": nodes.address}).returncode


if __name__ == "__main__":
    sys.exit(main())
