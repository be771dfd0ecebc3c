"""Real servers on loopback for tests: an MLflow server, and PostgreSQL to keep its runs in."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from orchestrator.observers import mlflow_uri
from tests import commands
from tests.commands import free_port
from workers.errors import RequestError

START_S = 120.0
POSTGRES_PROGRAMS = Path("/usr/lib/postgresql")
"""Where Debian keeps them, a folder a version."""


class Server:
    """A real MLflow server on loopback, which can be ended and started again with what it had.

    As a context manager it runs from the beginning of the block, and is ended with it.
    """

    def __init__(
        self,
        folder: Path,
        store: str | None = None,
        artifacts: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Runs in `store` and artifacts in `artifacts`, URIs; in `folder` where there is none."""
        self.port = free_port()
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.store = store or f"sqlite:///{folder}/server.db"
        self.artifacts = artifacts or f"{folder}/artifacts"
        self.environment = dict(environment or {})
        self._up = contextlib.ExitStack()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Raises: AssertionError where it does not answer within `START_S`, with its output in the notes."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store, "--workers", "1"]
        command += ["--serve-artifacts", "--artifacts-destination", self.artifacts]
        environment = commands.environment(**{"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | self.environment)
        log = self.folder / "server.txt"
        with log.open("ab") as output:
            process = self._up.enter_context(commands.running(*command, env=environment, stdout=output, stderr=output))
        try:
            commands.wait_until(self._answers, START_S, f"no answer at {self.uri}", process=process)
        except BaseException as error:
            self.kill()
            error.add_note(log.read_text())
            raise

    def kill(self) -> None:
        self._up.close()

    def _answers(self) -> bool:
        try:
            mlflow_uri.reach(self.uri)
            return True
        except RequestError:
            return False


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs, or None where there is none."""
    found = [place.parent for place in POSTGRES_PROGRAMS.glob("*/bin/initdb")]
    return max(found, key=lambda place: float(place.parent.name), default=None)


class Postgres:
    """A PostgreSQL of its own in `folder`, on loopback. It refuses to be root: then it is user `postgres`."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs, self.port = folder, programs, free_port()
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        if self.as_user:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        data = str(self.folder / "data")
        self._run(["initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--no-sync"])
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off"
        options += f" -c unix_socket_directories={self.folder}"
        log = str(self.folder / "postgres.txt")
        self._run(["pg_ctl", "start", "--wait", "--pgdata", data, "--log", log, "--options", options])

    def stop(self) -> None:
        self._run(["pg_ctl", "stop", "--mode", "immediate", "--pgdata", str(self.folder / "data")])

    def _run(self, command: Sequence[str]) -> None:
        words = [*self.as_user, str(self.programs / command[0]), *command[1:]]
        # Not by a pipe: the server that `pg_ctl start` leaves behind would keep it open.
        with (self.folder / "programs.txt").open("ab") as output:
            done = subprocess.run(words, cwd=self.folder, stdout=output, stderr=output, timeout=START_S)
        assert done.returncode == 0, (self.folder / "programs.txt").read_text()
