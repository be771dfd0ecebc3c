"""`stillhouse submit`: a run as a job of a Ray cluster, by Ray's own job client.

The job gets the folder that the configuration lies in, less what runs leave there, and this very version of
Stillhouse, so its nodes need only what Stillhouse depends on. Places that are relative to the working folder are taken
relative to the submitter's, if the job finds itself on that machine.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrator import cluster, environment, interrupts
from orchestrator.config import RunConfig
from orchestrator.lock import machine
from orchestrator.trackers import SQLITE
from workers import storage
from workers.errors import RequestError
from workers.secrets import hidden

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("orchestrator", "workers")
LEFT_OUT = (
    ".git", ".venv*", "venv", "node_modules", "__pycache__", "*.pyc", ".*_cache", "runs", "mlruns", "mlflow.db*",
    "run.lock", "*.partial", ".env*", ".ssh", ".aws", ".config", ".netrc", "*.pem", "*.key", "id_rsa*",
)  # fmt: skip
"""What a job does not need, or is not to have, as .gitignore says it; a `.rayignore` in the folder adds to it."""
HAS_RAY = "$p -c \"import importlib.util, sys; sys.exit(not importlib.util.find_spec('ray'))\""
"""Whether the cluster's `python` is Ray's. Where Ray was started from a virtual environment that is not active, it is
not, and there may be one where the submitter has his."""
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
STOP_S = 60
"""How long a job that is stopped has to end by itself."""
POLL_S = 2.0
NOT_YET, READY_TIMEOUT_S = "No available agent", 60.0
"""What a cluster says that was only just started, and how long it may."""


def submit(path: str, overrides: Sequence[str], address: str, *, fresh: bool, follow: bool) -> int:
    """Hand a run to the cluster whose dashboard is at `address`; returns an exit status.

    follow: show what the job says until it is over, and return its own status.

    Raises: `RequestError` where the configuration is wrong or the cluster does not answer.
    """
    config = RunConfig.load(path, overrides)
    folder = Path(path).resolve().parent
    for each in overrides:
        if hidden(each) != each:
            raise RequestError(
                f"--set {hidden(each)}: a job's command is shown to everybody who sees the cluster. Give secrets to "
                "its nodes, by environment variables for example, and name the place without them."
            )
    as_here = _as_here(config)
    words = ["run", Path(path).name, *(f"--set={each}" for each in (*overrides, *as_here)), *(["--fresh"] * fresh)]
    client = _client(address)
    job = _hand_in(
        client,
        entrypoint=f"p=python; {HAS_RAY} || p={shlex.quote(sys.executable)}; "
        f"exec $p -m orchestrator.cli {shlex.join(words)}",
        submission_id=f"{config.name}-{secrets.token_hex(4)}",
        runtime_env=_environment(folder, config),
        metadata={"stillhouse.run": config.name},
    )
    print(f"job {job} of {address}: the run '{hidden(storage.join(config.storage, config.name))}'", file=sys.stderr)
    if not follow:
        print(
            f"follow it: ray job logs --address {address} --follow {job}\n"
            f"stop it:   ray job stop --address {address} {job}    (the same command again resumes)",
            file=sys.stderr,
        )
        return 0
    return _follow(client, job)


def _as_here(config: RunConfig) -> list[str]:
    """Overrides by which local places are those that they are here: a job's own working folder is a copy."""
    found = [f"storage={config.storage}"] if storage.is_local(config.storage) else []
    return found + ([f"tracking.uri={config.tracking.uri}"] if config.tracking.uri.startswith(SQLITE) else [])


def _hand_in(client: JobSubmissionClient, **job: Any) -> str:
    """Submit it, as soon as the cluster takes jobs: one that has only just been started answers first and takes later.

    Raises: `RequestError` where it does not take this one.
    """
    until = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except (RuntimeError, ValueError) as error:
            if NOT_YET not in str(error) or time.monotonic() > until:
                raise RequestError(f"the cluster did not take the job: {hidden(str(error)).strip()}") from error
            time.sleep(1.0)


def _follow(client: JobSubmissionClient, job: str) -> int:
    from ray.job_submission import JobStatus

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)

    try:
        asyncio.run(tail())
        while not (info := client.get_job_info(job)).status.is_terminal():  # its lines ended, or the connection did
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print(f"stillhouse: job {job} goes on; `ray job stop` stops it.", file=sys.stderr)
        return interrupts.STATUS
    except (OSError, RuntimeError) as error:
        print(
            f"stillhouse: the cluster does not answer any more ({error}). Job {job} may go on; `ray job logs --follow "
            f"{job}` follows it.",
            file=sys.stderr,
        )
        return 1
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        print(f"stillhouse: job {job} was stopped. The same command resumes.", file=sys.stderr)
        return interrupts.STATUS
    reason = hidden(str(info.message)).strip().partition(", last available logs")[0]
    print(f"stillhouse: job {job} failed: {reason}", file=sys.stderr)
    status = info.driver_exit_code
    return status if status in (1, 2, 3) else 1


def _client(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(
            f"--address '{hidden(address)}': expected the URL of the cluster's dashboard, such as http://HEAD:8265."
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        cluster.reach(f"{parts.hostname}:{port}")
        client = JobSubmissionClient(address)
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)  # which set their own
        return client
    except (OSError, RuntimeError, ValueError) as error:
        raise RequestError(
            f"no Ray cluster takes jobs at '{hidden(address)}' ({error}). Expected the URL of its dashboard; `ray "
            "start --head` prints it, and `ray dashboard CLUSTER.yaml` or `kubectl port-forward` make it a local one."
        ) from None


def _environment(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Ray's runtime environment: the configuration's folder, our packages, and what is to stay behind."""
    from mlflow.utils.git_utils import get_git_commit

    os.environ.setdefault("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")  # data is often kept out of git
    left_out = [*LEFT_OUT]
    for place in (config.storage, config.tracking.uri.removeprefix(SQLITE)):
        if storage.is_local(place) and Path(place).is_relative_to(folder) and Path(place) != folder:
            left_out.append("/" + Path(place).relative_to(folder).as_posix())
    return {
        "working_dir": str(folder),
        "env_vars": {
            environment.SUBMITTED_FROM: f"{machine()} {Path.cwd()}",
            environment.COMMIT: get_git_commit(str(folder)) or "",
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),  # 3 s by default
        },
        "excludes": left_out,
        "py_modules": [_folder_of(package) for package in PACKAGES],
    }


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return next(iter(spec.submodule_search_locations))
