"""How threads wait: steps/s of a bare training loop alone and beside another, with OpenMP's policies.

Threads of a layer meet at a barrier. By default a thread spins there, which is quick on cores of its own, but on cores
that others use it keeps the core from the thread that it waits for. With `OMP_WAIT_POLICY=PASSIVE` it sleeps. Each
process takes as many threads as there are cores. Ratios are medians over turns of passive over the default.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import mean, median

import torch

from benchmarks import common
from benchmarks.loops import MEMBER, STUDENT
from benchmarks.models import mlp

NETWORKS = {"2x128": STUDENT, "4x512": MEMBER}
POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
WARM_UP = 20
BATCH_SIZE = 128


def main() -> None:
    parser = common.arguments(__doc__, turns=3, seconds=3)
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)  # what one process of the benchmark does
    options = parser.parse_args()
    if options.network:
        print(steps_per_second(options.network, options.threads, options.seconds))
        return
    started = common.machine()
    rows: list[common.Row] = []
    for turn in range(1, options.turns + 1):
        for network in NETWORKS:
            for processes in (1, 2):
                of = {name: at_once(name, network, processes, options) for name in POLICIES}
                rows.append(
                    {
                        "network": network,
                        "turn": turn,
                        "processes": processes,
                        **of,
                        "ratio": of["passive"] / of["default"],
                    }
                )
                common.progress(common.table(rows[-1:]))
    ratios = {
        f"{network}, {processes} at once": round(
            median(row["ratio"] for row in rows if (row["network"], row["processes"]) == (network, processes)), 3
        )
        for network in NETWORKS
        for processes in (1, 2)
    }
    common.publish("wait_policy", options.results, started, rows, threads=options.threads, passive_over_default=ratios)


def at_once(policy: str, network: str, processes: int, options: argparse.Namespace) -> float:
    """Steps/s of each of several processes at once, on average."""
    command = [sys.executable, "-m", "benchmarks.wait_policy", "--network", network]
    command += ["--threads", str(options.threads), "--seconds", str(options.seconds)]
    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = kept | POLICIES[policy]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return mean(float(process.communicate()[0]) for process in running)


def steps_per_second(network: str, threads: int, seconds: float) -> float:
    torch.set_num_threads(threads)
    model = mlp(**NETWORKS[network])
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, y = torch.randn(BATCH_SIZE, 840), torch.randint(common.CLASSES, (BATCH_SIZE,))
    steps, started = -WARM_UP, time.perf_counter()
    while steps < 0 or time.perf_counter() - started < seconds:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        steps += 1
        if steps == 0:
            started = time.perf_counter()
    return steps / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
