"""`stillhouse submit`: a run as a job of a Ray cluster, by Ray's own job client.

The job gets the folder of the configuration, without results of runs, and this version of Stillhouse. So its nodes need
only the dependencies of Stillhouse. Relative paths refer to the submitter's working folder, if the job runs on the
submitter's machine.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli import job_folder
from orchestrator.cli.job_folder import JobFolder
from orchestrator.cluster import authentication, environment, http_probe, interrupts
from orchestrator.cluster.ray_private import PACKAGING_LOGGER
from orchestrator.config import grid, inputs
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.mlflow_uri import SQLITE
from orchestrator.reporting import sweeps
from orchestrator.run_folder import owned
from orchestrator.run_folder.lock import machine
from workers import storage
from workers.errors import RequestError
from workers.redact import redacted

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PACKAGES = ("orchestrator", "workers")
LEFT_OUT = (
    ".git", ".venv*", "venv", "node_modules", "__pycache__", "*.pyc", ".*_cache", "runs", "mlruns", "mlflow.db*",
    "run.lock", "*.partial", ".env*", ".ssh", ".aws", ".config", ".netrc", "*.pem", "*.key",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".kube", ".docker", ".azure", ".gnupg", ".pgpass", ".pypirc",
    ".git-credentials",
)  # fmt: skip
"""Files that a job does not need or must not get, as .gitignore patterns; a `.rayignore` in the folder adds to them."""
HAS_RAY = "$p -P -c \"import importlib.util, sys; sys.exit(not importlib.util.find_spec('ray'))\""
"""Shell command that tests whether Python `$p` has Ray. The cluster's `python` lacks it where Ray was started from an
inactive virtual environment; the submitter's path may then work."""
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    PACKAGING_LOGGER,
)
STOP_S = 60
"""Time for a stopped job to end by itself."""
POLL_S = 2.0
TOO_LARGE = "status code 413"
NOT_YET, READY_TIMEOUT_S = "No available agent", 60.0
"""The error of a cluster that has just started, and how long to retry."""


def submit(path: str, overrides: Sequence[str], address: str, *, fresh: bool, follow: bool) -> int:
    """Submit a run to the cluster whose dashboard is at `address`; returns an exit status.

    follow: show the job's log until it ends, and return its status.
    Raises: `RequestError` where the configuration is invalid or the cluster does not respond.
    """
    config = RunConfig.load(path, overrides)
    file = Path(path).resolve()
    folder = file.parent
    for each in overrides:
        if redacted(each) != each:
            raise RequestError(
                f"--set {redacted(each)}: a job's command is visible to all users of the cluster. Give secrets to "
                "its nodes, by environment variables for example, and name the place without them."
            )
    as_here = _as_here(config)
    words = ["run", file.name, *(f"--set={each}" for each in (*overrides, *as_here)), *(["--fresh"] * fresh)]
    print(f"handing the run '{config.name}' to {redacted(address)} ...", file=sys.stderr, flush=True)
    with _client(address) as client, job_folder.prepared(folder, LEFT_OUT, _local_places(config)) as sent:
        print(
            f"sending '{folder}': {len(sent.sizes)} files, {sent.bytes / 1e6:,.1f} MB ...", file=sys.stderr, flush=True
        )
        job = _hand_in(
            client,
            sent,
            folder,
            entrypoint=f"cd {job_folder.NAME}; p=python; {HAS_RAY} || p={shlex.quote(sys.executable)}; "
            f"exec $p -P -m orchestrator.cli {shlex.join(words)}",
            submission_id=f"{config.name}-{secrets.token_hex(4)}",
            runtime_env=_environment(folder, sent),
            metadata={"stillhouse.run": config.name},
        )
        place = redacted(storage.join(config.storage, config.name))
        print(f"job {job} of {redacted(address)}: the run '{place}'", file=sys.stderr)
        if follow:
            return _follow(client, job)
        ray = f"{authentication.MODE}=token ray" if authentication.is_on() else "ray"
        here = shlex.quote(redacted(address))
        print(
            f"follow it: {ray} job logs --address {here} --follow {job}\n"
            f"stop it:   {ray} job stop --address {here} {job}    (the same command again resumes)",
            file=sys.stderr,
        )
        return 0


def _as_here(config: RunConfig) -> list[str]:
    """Overrides with absolute local paths, in quotes of YAML, since a job's working folder is a copy."""
    found = {"storage": config.storage} if storage.is_local(config.storage) else {}
    found |= {"tracking.uri": config.tracking.uri} if config.tracking.uri.startswith(SQLITE) else {}
    return grid.overrides(found)


def _local_places(config: RunConfig) -> list[Path]:
    """Local places of runs' results: as they are named, which may be a link beside the configuration, and resolved.

    Each run and sweep is one of them, too, since the storage may be the folder of the configuration itself; those that
    hold inputs of this run are not.
    """
    places = map(storage.local_path, (config.storage, config.tracking.uri.removeprefix(SQLITE)))
    found = [each for place in places if place is not None for each in (place, place.resolve())]
    marks = [mark for place in found for name in (owned.MARK, sweeps.RECORD) for mark in place.glob(f"*/{name}")]
    read = [path for uri in inputs.every(config) if (path := storage.local_path(uri)) is not None]
    return found + [mark.parent for mark in marks if not any(each.is_relative_to(mark.parent) for each in read)]


def _hand_in(client: JobSubmissionClient, sent: JobFolder, folder: Path, **job: Any) -> str:
    """Submit the job, retrying on a cluster that has just started: it responds before it accepts jobs.

    Raises: `RequestError` where the cluster rejects the job.
    """
    until = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except (RuntimeError, ValueError) as error:
            if TOO_LARGE in str(error):  # for this cluster, or its proxy
                raise RequestError(job_folder.too_large(folder, sent)) from error
            if NOT_YET not in str(error) or time.monotonic() > until:
                raise RequestError(
                    f"the cluster did not take the job: {redacted(str(error)).strip().rstrip('.')}. Expected a running "
                    "cluster of the same Ray version: see its dashboard's log, then submit again."
                ) from error
            time.sleep(1.0)


class _ReaderLeft(Exception):
    """The reader of stdout has ended. A `BrokenPipeError` could also come from the connection to the cluster."""


def _show(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError as error:
        raise _ReaderLeft from error


def _ended(client: JobSubmissionClient, job: str) -> JobDetails:
    """Show the log of a job until the job ends.

    A proxy may close the connection of a log without news, and Ray sends a log from its beginning.
    Raises: `OSError`, `RuntimeError` where the cluster does not report the job's state.
    """
    from aiohttp import ClientError

    shown = 0

    async def tail() -> None:
        nonlocal shown
        begin = 0
        async for text in client.tail_job_logs(job):
            _show(text[max(0, shown - begin) :])
            begin += len(text)
            shown = max(shown, begin)

    while True:
        with suppress(OSError, RuntimeError, ClientError):
            asyncio.run(tail())
        info = client.get_job_info(job)
        if info.status.is_terminal():
            break
        time.sleep(POLL_S)
    with suppress(OSError, RuntimeError):  # its node may be gone
        _show(client.get_job_logs(job)[shown:])
    return info


def _follow(client: JobSubmissionClient, job: str) -> int:
    from ray.job_submission import JobStatus

    try:
        info = _ended(client, job)
    except KeyboardInterrupt:
        print(f"stillhouse: job {job} goes on; `ray job stop` stops it.", file=sys.stderr)
        return interrupts.STATUS
    except _ReaderLeft as error:
        raise BrokenPipeError from error
    except (OSError, RuntimeError) as error:
        print(
            f"stillhouse: the cluster does not answer any more ({redacted(str(error))}). Job {job} may go on; `ray job "
            f"logs --follow {job}` follows it.",
            file=sys.stderr,
        )
        return 1
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        print(f"stillhouse: job {job} was stopped. The same command resumes.", file=sys.stderr)
        return interrupts.STATUS
    reason = redacted(str(info.message)).strip().partition(", last available logs")[0]
    print(f"stillhouse: job {job} failed: {reason}", file=sys.stderr)
    status = info.driver_exit_code
    return status if status in (1, 2, 3) else 1


@contextmanager
def _client(address: str) -> Iterator[JobSubmissionClient]:
    """Ray's job client, with the token that the cluster requires.

    Raises: `RequestError` where no cluster accepts jobs at the address, or it requires a token that is missing.
    """
    shown = redacted(address)
    with ExitStack() as settled:
        try:
            parts = http_probe.split(address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise RequestError(
                    f"--address '{shown}': expected the URL of the cluster's dashboard, such as http://HEAD:8265."
                )
            port = parts.port or (443 if parts.scheme == "https" else 80)
            with interrupts.at_once():
                from orchestrator.cluster import connection

                connection.reach(f"{parts.hostname}:{port}")
                settled.enter_context(authentication.of_dashboard(address))
                from ray.job_submission import JobSubmissionClient
            client = JobSubmissionClient(address)
            for name in TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)  # they set their own level
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError(
                f"no Ray cluster takes jobs at '{shown}' ({redacted(str(error))}). Expected the URL of its dashboard; "
                "`ray start --head` prints it, and `ray dashboard CLUSTER.yaml` or `kubectl port-forward` make it a "
                "local one."
            ) from None
        yield client


def _environment(folder: Path, sent: JobFolder) -> dict[str, Any]:
    """Ray's runtime environment: the configuration's folder, Stillhouse's packages, and the exclusions."""
    from mlflow.utils.git_utils import get_git_commit

    from workers.user_code.factories import JOB_FOLDER

    os.environ.setdefault("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")  # data is often kept out of git
    return {
        "working_dir": str(sent.root),
        "env_vars": {
            environment.SUBMITTED_ON: machine(),
            environment.SUBMITTED_FROM: str(Path.cwd()),
            environment.SENT_FROM: str(folder),
            environment.COMMIT: get_git_commit(str(folder)) or "",
            JOB_FOLDER: job_folder.NAME,
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),  # 3 s by default
        },
        "excludes": sent.excludes,
        "py_modules": [_folder_of(package) for package in PACKAGES],
    }


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return next(iter(spec.submodule_search_locations))
