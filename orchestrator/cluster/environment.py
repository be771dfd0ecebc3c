"""Environment variables: those that Ray reads at import, which are set before anything imports Ray, and those of jobs.

Values that the user has set take precedence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

EVERYWHERE = {
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # after which a stopped worker counts as dead; default 600 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the controller's poll; default 2 s
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # no traceback for each request to a lost teacher
}
IN_PLACE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: only one node, on 127.0.0.1
    "RAY_worker_niceness": "0",  # at Ray's 15, threads of a step starve and block others
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # how long Ray's agents outlive a killed driver; default 60 s
}
SUBMITTED_ON = "STILLHOUSE_SUBMITTED_ON"
"""Set in a job of `stillhouse submit`: the submitter's machine (`run_folder.lock.machine`)."""
SUBMITTED_FROM = "STILLHOUSE_SUBMITTED_FROM"
"""Set in such a job: the submitter's working folder."""
SENT_FROM = "STILLHOUSE_SENT_FROM"
"""Set in such a job: the original folder of the configuration, of which the job has a copy."""
COMMIT = "STILLHOUSE_COMMIT"
"""Set in such a job: the git commit that the submitter had checked out."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in a job."""


DASHBOARDS = ("http://", "https://")
"""How the URLs of dashboards begin."""


def ray_address() -> str:
    """The cluster to join, `auto`, or `local` for a Ray that is started in place."""
    return os.environ.get("RAY_ADDRESS") or "local"


def is_dashboard(address: str) -> bool:
    """Whether an address is the URL of a dashboard: Ray's own commands for jobs read one from RAY_ADDRESS, too."""
    return address.startswith(DASHBOARDS)


def prepare() -> None:
    """Set missing variables; a Ray that is started in place also listens only on the loopback interface."""
    wanted = EVERYWHERE if ray_address() != "local" else EVERYWHERE | IN_PLACE
    for key, value in wanted.items():
        os.environ.setdefault(key, value)


@contextmanager
def restored(*names: str) -> Iterator[None]:
    """A block after which these variables are as before it."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def of_workers() -> dict[str, str]:
    """`EVERYWHERE` without the variables of this job: Ray refuses to start a driver that sets one of them, too."""
    job = json.loads(os.environ.get(IN_A_JOB) or "{}").get("runtime_env") or {}
    return {key: value for key, value in EVERYWHERE.items() if key not in (job.get("env_vars") or {})}
