"""The runs of a sweep as processes on one Ray, so that a failing run leaves the others alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.observers import mlflow_sweep
from workers import storage

PREFIX = "stillhouse: "
"""Of an error message of the command."""


@dataclass(frozen=True)
class Job:
    """A run to execute. overrides: by which its process loads the configuration. digest: of the file at `path` as the
    sweep began."""

    path: str
    name: str
    overrides: Sequence[str]
    digest: str


def digest(path: str) -> str:
    """sha256 of a configuration file; empty where it cannot be read."""
    try:
        return storage.sha256(Path(path).read_bytes())
    except OSError:
        return ""


@dataclass
class Processes:
    """Starts runs. address: of the Ray that they join. parent: the sweep's run in MLflow."""

    address: str
    parent: str
    verbose: bool = False
    running: set[subprocess.Popen[str]] = field(default_factory=set)
    ended: bool = False

    def run(self, jobs: Sequence[Job], at_once: int) -> list[str]:
        """Execute jobs, so many at a time; returns for each why it failed, empty where it did not."""
        with ThreadPoolExecutor(at_once) as threads:
            try:
                return list(threads.map(self._run, jobs))
            except BaseException:  # an interrupt of this process alone; the block would wait for the runs
                threads.shutdown(wait=False, cancel_futures=True)
                self.end()
                raise

    def end(self) -> None:
        """Ask all runs to stop, and those that are about to start."""
        self.ended = True
        for process in [*self.running]:
            process.terminate()

    def _run(self, job: Job) -> str:
        if digest(job.path) != job.digest:
            return f"'{job.path}' has changed since the sweep began, so this run would have other settings."
        sets = [word for override in job.overrides for word in ("--set", override)]
        flags = ["--verbose"] if self.verbose else []
        command = [sys.executable, "-P", "-m", "orchestrator.cli", "run", job.path, *sets, *flags]
        environment = os.environ | {"RAY_ADDRESS": self.address, mlflow_sweep.ENVIRONMENT: self.parent}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.running.add(process)
        if self.ended:
            process.terminate()
        try:
            _, shown = process.communicate()
        finally:
            self.running.discard(process)
        return "" if process.returncode == 0 else _problem(shown, process.returncode)


def _problem(shown: str, status: int) -> str:
    """The error message of a command that failed."""
    _, found, message = shown.rpartition(PREFIX)
    return " ".join(message.split()) if found else f"exit status {status}"
